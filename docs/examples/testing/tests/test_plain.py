from __future__ import annotations

import unittest

from reports import manager

from granite_core import StoragePolicy
from granite_core.testing import assert_stored, memory_manager, memory_storage, put_sample


# the part "plain" begins
class TestFiles(unittest.TestCase):
    def test_with_the_applications_manager(self) -> None:
        with memory_storage(manager) as storage:
            ref = storage.put("reports", "pdf")
            storage.assert_only_stored([ref])
        assert manager.backends["main"].backend_name == "local"

    def test_with_a_manager_of_its_own(self) -> None:
        own = memory_manager("notes", StoragePolicy("pictures", content_types=["image/*"]))
        assert_stored(own, put_sample(own, "pictures", "png"))
        # the part "plain" ends
