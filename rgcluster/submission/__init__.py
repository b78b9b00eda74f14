"""Jobs on a cluster that others run: checked before they are submitted, followed until they end."""
