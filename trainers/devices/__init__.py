"""Devices, workers, and the diagnosis of a machine."""
