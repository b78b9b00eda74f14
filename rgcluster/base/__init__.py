"""What every room stands on: storage, run directories, checkpoints, placement, sessions."""
