# SPDX-License-Identifier: Apache-2.0
"""What the ladder of kernels is held to: answers of the probe, trackers, and every skip.

A program that skips and is not listed here fails the rung; so does one that is listed and runs.  A
skip is listed with a part of its own reason.  Facts are the programs of native/tests/kernel, all of
which run on every rung; PROGRAMS are those with an engine in them that run there as well.  The rest
of native/tests/engine is in ELSEWHERE, by reason (tests/tidy/test_rungs.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

# Trackers, memories, the way out and back: what hangs on the kernel.
PROGRAMS = [
    "test_probe",
    "test_rwp",
    "test_rwp_memfd",
    "test_rwp_stress",
    "test_hugetlb",
    "test_adopt_rwp",
    "test_resume_rwp",
    "test_pitfalls",
    "test_journey",
    "test_inthread_frame",
    "test_thp",
    "test_events",
    "test_moves",
    "test_swap",
    "test_huge_memfd",
]

# Programs of native/tests/engine that run on this machine's kernel alone, and why that will do.
ELSEWHERE = {
    "stores, codecs, frames and words; what the kernel does for it is asked by test_journey": [
        "test_fetch", "test_image", "test_ladder", "test_many", "test_mates", "test_resume",
        "test_resume_ranges", "test_share", "test_store_trouble", "test_walk",
    ],
    "which CPU a thread is pinned to, asked for and told as since Linux 2.6": ["test_place"],
    "injected failures, the same whatever kernel they are injected into": [
        "test_answers", "test_flood", "test_nth_ladder", "test_nth_lasting", "test_nth_once",
    ],
    "threads that have moments of 15 ms for what they do, which emulation makes another race; the "
    "races of a new kernel are test_rwp_stress's": [
        "test_race_evict", "test_race_fault", "test_race_ladder",
    ],
    "another process's memory, in its own modes; where those differ test_adopt_rwp and "
    "test_resume_rwp ask": ["test_adopt", "test_adopt_bad", "test_resume_vmm"],
    "faults as signals, as since Linux 4.14: test_sigbus_feature": [
        "test_inthread", "test_serve_call",
    ],
}  # fmt: skip

# Features that depend on the kernel's settings rather than on its version.
SETTINGS = {"has_thp_anon", "has_thp_shmem", "uffd_dev"}


def facts() -> list[str]:
    """Names of the programs that ask the kernel alone."""
    folder = Path(__file__).resolve().parents[2] / "native/tests/kernel"
    return sorted(path.stem for path in folder.glob("test_*.c"))


def engine_programs() -> list[str]:
    """Names of the programs that have an engine in them."""
    folder = Path(__file__).resolve().parents[2] / "native/tests/engine"
    return sorted(path.stem for path in folder.glob("test_*.c"))


@dataclass(frozen=True)
class Rung:
    """missing: what the probe must not find; all the rest it must."""

    missing: set[str]
    trackers: dict[str, str | None]
    needed: str = ""
    """What a refusal names."""
    examples: tuple[str, ...] = ("c",)
    """Languages whose examples/seed_workflow runs."""
    skips: dict[str, list[str]] = field(default_factory=dict)
    """Reason (a part of it): programs, or program.test."""


RWP_FACTS = [fact for fact in facts() if fact.startswith("test_rwp")]
RWP_TESTS = [
    "test_adopt_rwp",
    "test_huge_memfd.pages_leave_one_by_one",
    "test_hugetlb",
    "test_resume_rwp",
    "test_pitfalls.unprotected_is_touched",
    "test_rwp.cold_is_the_complement",
    "test_rwp.huge_pages_are_seen_whole",
    "test_rwp.returned_pages",
    "test_rwp.touched_since_the_scan",
    "test_rwp_memfd",
    "test_rwp_stress",
]

LADDER = {
    "7.3": Rung(
        set(),
        {"anon": "rwp", "memfd": "rwp"},
        examples=("c", "python"),
        skips={"this kernel has RWP": ["test_rwp.refused_without_the_kernel"]},
    ),
    "6.12": Rung(
        {"has_rwp", "has_rwp_shmem", "has_rwp_hugetlb"},
        {"anon": "wp", "memfd": "zap"},
        skips={
            "Linux 7.3": [*RWP_FACTS, *RWP_TESTS],
            "Linux 6.13": ["test_madvise_remote"],
        },
    ),
    "6.1": Rung(
        {"has_wp_async", "has_wp_unpopulated", "has_move", "has_poison", "has_pagemap_scan",
         "has_rwp", "has_rwp_shmem", "has_rwp_hugetlb"},
        {"anon": None, "memfd": None},
        needed="6.",
        skips={
            "Linux 7.3": [*RWP_FACTS, *(t for t in RWP_TESTS if "rwp" in t), "test_hugetlb"],
            "Linux 6.13": ["test_madvise_remote"],
            "MOVE, Linux 6.8": [
                "test_events",
                "test_inthread_frame",
                "test_journey",
                "test_moves",
                "test_pitfalls",
                "test_swap",
                "test_thp",
            ],
            "MOVE: Linux 6.8": [
                "test_event_remove_race",
                "test_event_stops_ioctls",
                "test_madv_free",
                "test_move_after_fork",
                "test_move_answers",
                "test_move_drops_wp",
                "test_move_is_atomic",
                "test_move_leaves_source_waiter",
                "test_move_mlock_mismatch",
                "test_move_needs_own_destination",
                "test_move_pinned",
                "test_move_splits_thp",
                "test_move_under_load",
                "test_move_zero_page",
                "test_staging_release",
            ],
            "WP_ASYNC: Linux 6.7": [
                "test_collapse",
                "test_copy_mode_wp",
                "test_move_marker",
                "test_wp_async_scan",
                "test_wp_async_thp",
            ],
            "PAGEMAP_SCAN: Linux 6.7": [
                "test_fault_around",
                "test_huge_memfd",
                "test_memfd_wp_guard",
                "test_read_order",
                "test_scan_walk_end",
                "test_zeropage_shmem",
            ],
            "Linux 6.6": ["test_ksm_loses_wp", "test_poison"],
        },
    ),
}  # fmt: skip
