"""Processes and disks of this machine."""
