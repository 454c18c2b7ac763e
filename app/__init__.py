"""stillframe: application-consistent snapshots of Linux VMs."""

__version__ = "0.1.0"
