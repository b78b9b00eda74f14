"""What one process holds alone: file locks between processes of a machine, leases of run directories."""
