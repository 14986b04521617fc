#!/usr/bin/env python3
"""Every RPC as the CSI specification (1.12) has it: required fields, codes, idempotency, concurrency,
paging, both access types; on three nodes. The first line of each case names the section. Prints the
table of RPCs and cases at the end.

usage: conformance.py [unittest arguments]
"""
import sys
import unittest

from conformance_case import Case, cluster, print_table
from conformance_controller import *  # noqa: F401,F403: the cases
from conformance_node import *  # noqa: F401,F403
from csi_harness import CsiCluster, require_root


class Zz_NothingStays(Case):
    def test_nothing_stays(self):
        """All: no mount, device, folder, record or attachment is left."""
        self.assertEqual(cluster.leftovers(), [])
        self.assertEqual(cluster.json(1, "volume", "ls"), [])


del Case  # has no cases of its own

if __name__ == "__main__":
    require_root()
    cluster.begin(CsiCluster())
    try:
        program = unittest.main(exit=False)
    finally:
        cluster.end()
    print_table()
    sys.exit(0 if program.result.wasSuccessful() else 1)
