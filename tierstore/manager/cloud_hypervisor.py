# SPDX-License-Identifier: Apache-2.0
"""Cloud Hypervisor's messages: a 32-bit little-endian length, then JSON with a ``type``.

``handoff`` comes first, with the userfaultfd, at boot, at run time, or from a VM whose manager went
away; ``add_region`` when memory was plugged in.  Each is answered with one byte once the manager
serves it; the VMM gives every step two seconds.
"""

from __future__ import annotations

import re
import struct
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tierstore.manager import strict_json
from tierstore.manager.bounds import MESSAGE_BYTES_MAX, REGIONS_MAX
from tierstore.manager.firecracker import U64, first_complaint
from tierstore.manager.protocol import (
    Added,
    Handoff,
    Message,
    MessageError,
    Piece,
    Protocol,
    join_pieces,
    register,
)

__all__ = ["VERSION_MAX", "CloudHypervisor"]

VERSION_MAX = 0
_LENGTH = struct.Struct("<I")
_MODES = frozenset({"MISSING", "WP", "WP_ASYNC", "WP_UNPOPULATED", "RWP", "RWP_ASYNC"})


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Region(_Model):
    guest_phys_addr: U64
    host_virt_addr: U64
    size: U64
    backing_file_offset: U64

    @property
    def piece(self) -> Piece:
        return Piece(self.host_virt_addr, self.size, self.backing_file_offset)


class _Handoff(_Model):
    type: Literal["handoff"]
    version: U64 = 0
    vmm_pid: Annotated[int, Field(strict=True, ge=1, lt=1 << 31)] | None = None
    mode: Annotated[str, Field(strict=True, max_length=200)]
    regions: Annotated[list[_Region], Field(min_length=1, max_length=REGIONS_MAX)]


class _AddRegion(_Model):
    type: Literal["add_region"]
    region: _Region


_MESSAGE: TypeAdapter[_Handoff | _AddRegion] = TypeAdapter(
    Annotated[_Handoff | _AddRegion, Field(discriminator="type")]
)


@register
class CloudHypervisor(Protocol):
    """``uffd_handoff_socket`` of ``--memory``, and ``vm.uffd-attach``."""

    name = "cloud-hypervisor"
    answer = b"\x01"

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._is_handed_over = False

    @classmethod
    def recognises(cls, head: bytes) -> bool:
        length: int = _LENGTH.unpack(head)[0]
        return 0 < length <= MESSAGE_BYTES_MAX

    def feed(self, data: bytes) -> list[Message]:
        self._buffer += data
        messages: list[Message] = []
        while len(self._buffer) >= _LENGTH.size:
            length = _LENGTH.unpack_from(self._buffer)[0]
            if not 0 < length <= MESSAGE_BYTES_MAX:
                raise MessageError(f"a message of {length} bytes; at most {MESSAGE_BYTES_MAX}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            text = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            messages.append(self._message(text))
        return messages

    @property
    def is_over(self) -> bool:
        return False

    def _message(self, text: bytes) -> Message:
        try:
            value: Any = strict_json.parse(text)
            message = _MESSAGE.validate_python(value)
        except strict_json.JsonError as error:
            raise MessageError(f"its message is refused: {error}") from None
        except ValidationError as error:
            raise MessageError(f"its message is refused: {first_complaint(error)}") from None
        if isinstance(message, _Handoff) == self._is_handed_over:
            raise MessageError(f'the message "{message.type}" makes no sense at this point')
        if isinstance(message, _Handoff):
            handoff = _handoff(message)
            self._is_handed_over = True
            return handoff
        return Added(join_pieces([message.region.piece], one_file=True)[0])


def _handoff(message: _Handoff) -> Handoff:
    if message.version > VERSION_MAX:
        raise MessageError(
            f"it speaks version {message.version} of the protocol, and this manager knows "
            f"{VERSION_MAX}: use a newer tierstore, or an older VMM"
        )
    modes = frozenset(re.split(r"[|,+ ]+", message.mode.strip()))
    unknown = sorted(modes - _MODES)
    if unknown:
        raise MessageError(
            f"it registered with the mode {unknown[0]!a}, and this manager knows "
            f"{', '.join(sorted(_MODES))}"
        )
    # Each memory slot may have a file of its own: offsets may overlap, addresses may not.
    pieces = [region.piece for region in message.regions]
    return Handoff(
        vmm=CloudHypervisor.name,
        pieces=join_pieces(pieces, one_file=False),
        modes=modes,
        vmm_pid=message.vmm_pid,
        is_resumable=True,
    )
