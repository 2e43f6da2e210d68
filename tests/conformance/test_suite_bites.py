"""Every test of the suite catches a backend that is broken in just that way, and lets a sound one pass."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from granite_core.backends.base import StorageBackend
from granite_core.backends.memory import MemoryStorageBackend
from granite_core.errors import StorageError
from granite_core.testing import BackendConformance
from tests.conformance import broken as of
from tests.conformance import receiving_memory as receiving
from tests.conformance import signing_memory as signing

_CAUGHT = (AssertionError, StorageError, ValueError, zipfile.BadZipFile, pytest.fail.Exception)

CASES: dict[str, list[tuple[type[StorageBackend], dict[str, Any]]]] = {
    # -- writing
    "test_a_committed_object_is_there_and_whole": [(of.KeepsOnlyTheLastPiece, {})],
    "test_nothing_is_visible_before_commit": [(of.IsVisibleWhileItIsWritten, {})],
    "test_nothing_remains_after_abort": [(of.KeepsWhatWasAborted, {"many_parts": False})],
    "test_aborting_twice_is_no_error": [(of.ComplainsOfASecondAbort, {})],
    "test_aborting_after_commit_changes_nothing": [(of.UndoesACommitByAnAbort, {})],
    "test_leaving_a_writer_that_was_not_committed_aborts_it": [(of.CommitsWhatIsLeft, {})],
    "test_an_aborted_writer_takes_nothing_and_commits_nothing": [(of.RevivesAnAbortedWriter, {})],
    "test_a_committed_writer_takes_nothing_more": [(of.TakesMoreAfterItsCommit, {})],
    "test_an_object_may_be_empty": [(of.HasNoEmptyObjects, {})],
    "test_an_object_of_many_parts_comes_back_exactly": [(of.CutsLargeObjects, {})],
    "test_an_object_written_in_one_piece_comes_back_exactly": [(of.CutsLargeContents, {})],
    "test_the_caller_may_reuse_its_buffer": [(of.KeepsTheCallersBuffer, {})],
    "test_any_buffer_is_taken": [(of.TakesOnlyBytes, {})],
    "test_a_writer_may_pass_from_thread_to_thread": [(of.KeepsABufferForEachThread, {})],
    "test_memory_does_not_grow_with_what_is_written": [(MemoryStorageBackend, {})],
    "test_writers_of_different_keys_do_not_disturb_each_other": [(of.DeletesTheFolderToo, {})],
    "test_an_aborted_writer_does_not_disturb_another_of_its_key": [(of.KeepsOneTemporaryFileForAKey, {})],
    "test_a_taken_key_is_not_overwritten": [(of.OverwritesATakenKey, {"many_parts": False})],
    "test_of_many_writers_of_a_key_one_wins": [(of.OverwritesATakenKey, {})],
    "test_a_stream_that_breaks_leaves_nothing": [(of.KeepsWhatABrokenStreamGave, {})],
    "test_a_deleted_object_is_gone": [(of.DeletesNothing, {})],
    "test_deleting_what_is_absent_is_no_error": [(of.ComplainsOfASecondDelete, {})],
    "test_deleting_touches_no_other_object": [(of.DeletesWholeFolders, {}), (of.DeletesTheFolderToo, {})],
    "test_deleting_many_deletes_each_and_no_other": [
        (of.DeletesManyByTheirFolders, {}),
        (of.DropsWhitespaceWhereItDeletesMany, {}),
    ],
    "test_deleting_none_or_what_is_absent_is_no_error": [(of.MissesWhatIsAbsentAmongMany, {})],
    "test_more_can_be_deleted_than_a_request_names": [(of.DeletesAThousandAtMost, {})],
    "test_clearing_touches_neither_objects_nor_a_writer_at_work": [(of.ClearsWhatIsAtWork, {})],
    "test_clearing_removes_what_a_dead_writer_left": [(of.CountsTheSameLeftoverForEver, {})],
    # -- several goes
    "test_an_object_is_written_in_several_goes": [(of.ForgetsTheGoBefore, {})],
    "test_a_go_may_have_many_checkpoints": [(of.KeepsTheLastCheckpointOnly, {})],
    "test_a_go_writes_on_after_its_checkpoints_where_others_have_begun": [
        (of.RepeatsWhatWasThereBefore, {"goes": [700] * 3, "last": [1000] * 3})
    ],
    "test_an_object_of_one_go_may_be_empty": [(of.HasNoEmptyGoes, {})],
    "test_a_go_that_dies_is_forgotten_from_its_last_checkpoint_on": [(of.AppendsToWhatADeadGoWrote, {})],
    "test_a_checkpoint_whose_state_is_not_kept_is_as_if_it_had_not_been": [(of.AppendsToWhatADeadGoWrote, {})],
    "test_a_go_that_died_before_any_checkpoint_begins_anew": [(of.AppendsToWhatADeadGoWrote, {})],
    "test_a_go_that_wakes_up_late_changes_nothing": [(of.LetsASleeperWrite, {"many_parts": False})],
    "test_a_go_that_withdraws_leaves_what_was_kept_and_nothing_else": [(of.WithdrawsWhatWasKept, {})],
    "test_a_go_that_withdraws_before_any_checkpoint_removes_nothing_of_those_before": [
        (of.WithdrawsWhatWasKept, {"writes": False})
    ],
    "test_a_go_that_goes_on_after_the_object_was_discarded_removes_what_it_wrote": [
        (of.WritesOnWhatWasDiscarded, {"checkpoint": False})
    ],
    "test_an_object_may_be_written_in_very_many_goes": [(of.RemembersEachGo, {})],
    "test_committing_again_is_no_error": [(of.CommitsOnceOnly, {})],
    "test_what_is_complete_waits_for_its_commit": [(of.CommitsAtTheLastCheckpoint, {})],
    "test_a_closed_go_takes_nothing_more": [(of.TakesMoreOnceItIsClosed, {})],
    "test_nothing_remains_of_what_is_discarded": [(of.DiscardsNothing, {"checkpoint": True})],
    "test_discarding_does_not_touch_what_was_committed": [(of.DiscardsTheObjectToo, {})],
    "test_what_is_gone_is_told": [(of.GoesOnWithNothing, {})],
    "test_clearing_keeps_what_is_still_written": [(of.ClearsWhatIsStillWritten, {})],
    "test_without_the_capability_nothing_is_resumed": [(of.ResumesUnasked, {})],
    # -- reading
    "test_an_absent_object_is_said_to_be_absent": [
        (of.TakesAbsentForForbidden, {"key": "absent"}),
        (of.OpensAbsentObjects, {"key": "absent"}),
    ],
    "test_an_absent_object_is_said_to_be_absent_for_ranges_too": [(of.DoesNotLookForAnEmptyRange, {})],
    "test_a_range_is_read_exactly": [(of.ReadsOneByteTooMany, {"offset": 10, "length": 20})],
    "test_a_range_behind_the_end_is_empty": [(of.RefusesARangeBehindTheEnd, {"offset": 1000, "length": None})],
    "test_an_empty_object_has_only_empty_ranges": [(of.RefusesRangesOfEmptyObjects, {"offset": 3, "length": None})],
    "test_reading_in_pieces_ends_only_at_the_end": [(of.EndsNowAndThen, {})],
    "test_reading_nothing_takes_nothing": [(of.TakesZeroForEverything, {})],
    "test_a_range_across_parts_is_read_exactly": [(of.EndsAtAPart, {})],
    "test_closing_twice_and_half_way_is_no_error": [(of.ComplainsOfASecondClose, {})],
    "test_what_is_at_hand_is_what_comes_next": [(of.ShowsWhatIsAtHandTwice, {})],
    "test_a_reader_sees_one_version_or_fails": [(of.MixesVersions, {})],
    "test_many_readers_at_once_each_get_their_bytes": [(of.SharesOneReader, {})],
    "test_memory_does_not_grow_with_what_is_read": [(of.ReadsEverythingAtOnce, {})],
    "test_stat_tells_size_and_time": [(of.ForgetsTheTimeZone, {})],
    "test_an_etag_changes_with_the_content": [(of.HasOneEtag, {})],
    # -- listing
    "test_an_empty_store_lists_nothing": [(of.ListsWhatIsNotThere, {})],
    "test_objects_come_in_byte_order_of_their_keys": [(of.SortsByFolders, {}), (of.SortsAsUTF16, {})],
    "test_a_prefix_is_a_string_and_no_folder": [(of.TakesAPrefixForAFolder, {})],
    "test_a_listing_can_be_resumed_after_any_key": [(of.RepeatsTheKeyItStartsAfter, {})],
    "test_prefix_and_start_work_together": [(of.StartsAnywhereWithAPrefix, {})],
    "test_a_listing_tells_what_stat_tells": [(of.ListsNoSizes, {})],
    "test_more_objects_than_a_page_holds_are_each_listed_once": [(of.ListsOnePage, {})],
    "test_a_listing_may_be_left_half_way": [(of.ListsOnceAtATime, {})],
    "test_reserved_keys_can_be_used_and_are_not_listed": [(of.ListsWhatIsReserved, {})],
    "test_any_valid_key_is_taken": [(of.KnowsAsciiOnly, {"key": "日本語/ファイル.pdf"})],
    "test_keys_that_look_alike_are_different_objects": [(of.FoldsCase, {})],
    # -- addresses
    "test_a_presigned_address_gives_the_object": [(signing.SignsAnotherObject, {})],
    "test_a_presigned_address_gives_the_headers_that_were_asked_for": [(signing.HasHeadersOfItsOwn, {})],
    "test_a_presigned_address_for_head_tells_the_length": [(signing.SignsForGetOnly, {})],
    "test_a_presigned_address_is_good_for_its_method_only": [(signing.DoesNotSignTheMethod, {})],
    "test_the_same_presigned_address_comes_out_twice": [(signing.NeverSignsTwiceAlike, {})],
    "test_nothing_of_a_presigned_address_can_be_changed": [(signing.DoesNotSignTheHeaders, {})],
    "test_a_presigned_address_ends": [(signing.GivesForEver, {})],
    "test_a_presigned_address_says_when_its_object_is_gone": [(signing.GivesAnEmptyOneForWhatIsGone, {})],
    "test_presigned_addresses_may_be_good_for_some_time": [(signing.GivesForMinutesOnly, {})],
    "test_without_the_capability_nothing_is_presigned": [(of.PresignsUnasked, {})],
    "test_a_public_address_is_there_where_it_is_claimed": [(of.HasNoPublicAddress, {})],
    # -- what others store
    "test_a_signed_put_stores_the_object": [(receiving.KeepsTheBeginning, {})],
    "test_a_signed_put_takes_no_other_length": [(receiving.TakesAnyLength, {})],
    "test_a_signed_put_takes_no_other_type": [(receiving.TakesAnyType, {})],
    "test_a_signed_put_with_a_checksum_takes_what_has_it": [(receiving.MistakesChecksums, {})],
    "test_a_signed_put_may_be_sent_again": [(receiving.TakesItOnce, {})],
    "test_nothing_of_a_signed_put_can_be_changed": [(receiving.SignsNoKey, {}), (receiving.TakesForEver, {})],
    "test_a_signed_put_ends": [(receiving.TakesForEver, {})],
    "test_signed_requests_may_be_good_for_some_time": [(receiving.LastsForMinutesOnly, {})],
    "test_a_signed_form_stores_the_object": [(receiving.CutsForms, {})],
    "test_a_signed_form_takes_no_less_and_no_more": [(receiving.TakesFormsOfAnyLength, {})],
    "test_a_signed_form_leads_on": [(receiving.LeadsNowhere, {})],
    "test_nothing_of_a_signed_form_can_be_changed": [(receiving.TakesAnyForm, {})],
    "test_a_signed_form_ends": [(receiving.TakesFormsForEver, {})],
    "test_parts_are_joined_in_the_order_of_their_numbers": [
        (receiving.JoinsPartsAsTheyCame, {}),
        (receiving.ShowsPartsBeforeTheyAreJoined, {}),
    ],
    "test_a_signed_part_takes_nothing_else": [(receiving.TakesAnyLength, {}), (receiving.TakesForEver, {})],
    "test_joined_parts_are_no_parts_any_more": [
        (receiving.RemembersJoinedParts, {}),
        (receiving.DiscardsJoinedParts, {}),
    ],
    "test_nothing_remains_of_parts_that_are_discarded": [
        (receiving.KeepsDiscardedParts, {}),
        (receiving.DiscardsEveryonesParts, {}),
    ],
    "test_clearing_keeps_what_clients_may_still_send": [
        (receiving.ClearsWhatIsStillSent, {}),
        (receiving.ClearsNothingOfOthers, {}),
    ],
    "test_clearing_keeps_parts_that_may_still_come": [
        (receiving.ClearsWhatIsStillSent, {}),
        (receiving.ClearsNothingOfOthers, {}),
    ],
    "test_a_copy_that_is_described_anew_takes_over_the_bytes_alone": [(receiving.CopiesWhatOthersSaid, {})],
    "test_without_the_capability_others_store_nothing": [(receiving.HasOthersStoreUnasked, {})],
    # -- what is derived
    "test_the_identity_is_the_same_every_time": [(of.IsCalledAnewEachTime, {})],
    "test_a_diagnosis_finds_something_or_nothing_and_changes_nothing": [(of.DiagnosesByWriting, {})],
    "test_putting_returns_a_ref_of_what_was_stored": [(of.ForgetsTheName, {})],
    "test_what_is_announced_is_not_believed": [(of.BelievesWhatIsAnnounced, {"announced": {"size": 4}})],
    "test_a_stream_is_read_from_where_it_stands_and_stays_open": [
        (of.ClosesTheCallersStream, {}),
        (of.ReadsTheStreamFromItsBeginning, {}),
    ],
    "test_a_stream_needs_nothing_but_read": [(of.ReadsAStreamOnce, {})],
    "test_iter_locations_yields_keys": [(of.IteratesBelowThePrefix, {})],
    "test_exists_tells_both": [(of.TakesSilenceForYes, {})],
    "test_an_opened_object_is_a_seekable_file": [(of.CannotSeek, {})],
    "test_an_opened_range_is_a_file_of_its_own": [(of.OpensTheWholeForARange, {})],
    "test_an_opened_object_serves_zipfile": [(of.DoesNotTellItsPosition, {})],
    "test_an_opened_object_serves_csv": [(of.OpensAsLatin1, {})],
    "test_an_opened_object_can_be_put_elsewhere": [(of.OpensTheFirstPart, {})],
    "test_a_copy_holds_the_same_bytes": [(of.MovesInsteadOfCopying, {"size": 1})],
    "test_copying_what_is_absent_leaves_nothing": [(of.LeavesAHalfCopy, {})],
    "test_a_local_path_names_a_file_with_exactly_the_object": [(of.NamesAnotherFile, {})],
    "test_without_the_capability_there_is_no_local_path": [(of.NamesAFileUnasked, {})],
    "test_a_closed_backend_can_be_used_again": [(of.IsDeadOnceItWasClosed, {})],
    # -- what no single call shows
    "test_any_program_does_what_a_dictionary_does": [(of.RemembersWhatWasDeleted, {}), (of.MovesInsteadOfCopying, {})],
}
_BROKEN = [(test, *case) for test, cases in CASES.items() for case in cases]
_IDS = [f"{broken.__name__}-{test[5:]}" for test, broken, _ in _BROKEN]

# What a backend in memory cannot show to be sound; the local one does.
_NEVER_SOUND = {
    "test_memory_does_not_grow_with_what_is_written",
    "test_a_local_path_names_a_file_with_exactly_the_object",
    "test_a_public_address_is_there_where_it_is_claimed",
    "test_more_can_be_deleted_than_a_request_names",
}


def test_every_test_of_the_suite_is_known_to_catch_something() -> None:
    assert {name for name in dir(BackendConformance) if name.startswith("test_")} == set(CASES)


@pytest.mark.parametrize(("test", "broken", "arguments"), _BROKEN, ids=_IDS)
def test_the_suite_catches_a_backend_that(
    test: str, broken: type[StorageBackend], arguments: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    with _closing(broken()) as backend, pytest.raises(_CAUGHT):
        getattr(BackendConformance(), test)(backend, **arguments)
    record_property("counted", "Conformance: broken backends|1|caught")


@pytest.mark.parametrize("test", [test for test in CASES if test not in _NEVER_SOUND])
def test_what_catches_it_passes_a_sound_backend(test: str) -> None:
    for broken, arguments in CASES[test]:
        families = receiving.Receiving, signing.Presigning, of.Misread
        sound = next(each for each in families if issubclass(broken, each) or each is of.Misread)
        with _closing(sound()) as backend:
            getattr(BackendConformance(), test)(backend, **arguments)


class _closing:
    """Ends the server of a backend that has one, whatever its own ``close`` does."""

    def __init__(self, backend: StorageBackend) -> None:
        self.backend = backend

    def __enter__(self) -> StorageBackend:
        return self.backend

    def __exit__(self, *_: object) -> None:
        self.backend.close()
