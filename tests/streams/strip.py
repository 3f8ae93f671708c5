#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Zeroes the data pages of a file that `xl save` wrote; all else stays, page tables included.

    xz -dc SAVED.xl.xz | tests/streams/strip.py | xz -9 >tests/streams/NAME.xl.xz
"""
import struct
import sys

PAGE = 4096
read, write = sys.stdin.buffer.read, sys.stdout.buffer.write


def copy(length):
    data = read(length)
    assert len(data) == length, "the file is too short"
    write(data)
    return data


header = copy(48)
copy(struct.unpack_from("<I", header, 44)[0])  # the configuration
copy(16 + 8)  # libxl's header, LIBXC_CONTEXT
copy(24 + 16)  # the two headers of libxc's stream
while True:
    kind, length = struct.unpack("<II", copy(8))
    if kind != 1:  # not PAGE_DATA
        copy(length + -length % 8)
        if kind == 0:
            break
        continue
    count, _ = struct.unpack("<II", copy(8))
    words = struct.unpack(f"<{count}Q", copy(8 * count))
    for word in words:
        number = word >> 60
        if number == 0:
            read(PAGE)
            write(bytes(PAGE))
        elif number < 13:
            copy(PAGE)
copy(8)  # libxl's END
assert not read(1), "bytes follow"
