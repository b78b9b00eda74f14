"""Changes to a snapshot: the journal, copies, compaction."""
