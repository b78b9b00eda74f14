"""Files of a source by relative names: folders, archives, object stores."""
