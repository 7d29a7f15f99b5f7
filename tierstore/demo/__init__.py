# SPDX-License-Identifier: Apache-2.0
"""The main job on real input: a guest that checks itself, a ladder of three tiers, a summary.

``source`` collects the machine's own files; ``memory`` is where they go; ``guest`` runs the
native threads; ``ladder`` makes the configuration; ``run`` puts them together; ``summary`` is what
comes out.
"""
