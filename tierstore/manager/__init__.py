# SPDX-License-Identifier: Apache-2.0
"""``tierstore serve``: the external memory manager of VMMs that hand their userfaultfd over.

A VMM connects to a unix socket and passes a userfaultfd; from then on its faults are answered by
the engine of this process, and what it does not touch leaves for the tiers.  Several VMs at once,
one region each.

====================  ==========================================================================
``protocol``          what a VMM may say, and the registry of those who say it
``firecracker``       Firecracker's message
``cloud_hypervisor``  Cloud Hypervisor's messages
``strict_json``       JSON from strangers
``listener``          the socket file: private, reclaimed when stale, never taken from the living
``peer``              who connected: user, process, its end
``addresses``         what backs a VMM's memory, and how it is registered, by the kernel's word
``handover``          from message, peer and kernel to what can be done safely, and why not more
``loop``              one thread for all sockets
``connection``        one VMM's connection
``vm``                one VM
``share``             fair shares of the tiers
``manager``           all of it
====================  ==========================================================================

No Python runs between a fault and its answer: that is the engine's.
"""
