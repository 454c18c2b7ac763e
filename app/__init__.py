"""stillframe: application-consistent snapshots of Linux VMs."""

__version__ = "0.1.0"

BANNER = f"app (stillframe) {__version__}"
"""What ``app --version`` prints."""
