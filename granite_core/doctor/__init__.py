"""The doctor: looks at configuration, permissions, clocks, disks, buckets and databases, and says what to do."""

from granite_core.doctor.examination import examine

__all__ = ["examine"]
