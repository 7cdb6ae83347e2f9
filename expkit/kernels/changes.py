"""Wide columns as changes from row to row: boards hardly change between the steps of a game.

A frame of rows becomes the list of elements that differ from the row above (the first row: from zero): gaps
between their flat positions, and their new values in byte planes. Measured on 8,192 rows of a 20x20 board game:
2,650 bytes a row become 58, so zstd-1 runs at twice the rows a second and needs 18 bytes a row instead of 25;
and one row of a frame is rebuilt from the changes alone.

Payload of a frame: u32 changes, u32 gap_bytes, gaps, then `itemsize` planes of `changes` bytes. A gap is the
number of unchanged elements before the change; 255 stands for 255 more to come.
"""

from __future__ import annotations

import numpy as np

from expkit.kernels import inner, kernel
from expkit.kernels.bits import (
    BITS,
    CHANGES,
    CONSTANT,
    DELTA,
    NONE,
    PLANES,
    delta_pays,
    gather_scalar,
    gather_vector,
    load_item,
    to_bits,
    to_planes,
)
from expkit.kernels.bytes_at import (
    copy_bytes,
    differ8,
    differ64,
    fence,
    load1,
    load4,
    prefetch,
    store1,
    store4,
    stream64,
    trailing_zeros,
)
from expkit.kernels.digest import mix, nh_row

ADDRESS, WIDTH, ITEMSIZE, WIDE, FRAME_ROWS, PLACE, FILTERED, KEYS, FILTER = range(9)
_EVERY_2 = np.uint64(0x5555555555555555)
_EVERY_4 = np.uint64(0x1111111111111111)
_EVERY_8 = np.uint64(0x0101010101010101)


@inner
def _compare(above, here, width, shift, base, positions, values, found):
    """Append to `positions` and `values` the elements, of 1 << shift bytes, of the row at `here` that differ from
    the row at `above`; the row's first element has position `base`. Returns the new number found."""
    byte = 0
    most = positions.shape[0]
    while byte < width:
        rest = width - byte
        if rest >= 64:
            mask = differ64(above, here, byte)
            step = 64
        elif rest >= 8:
            mask = differ8(above, here, byte)
            step = 8
        else:
            mask = np.uint64(0)
            for last in range(rest):
                mask |= np.uint64(load1(above, byte + last) != load1(here, byte + last)) << np.uint64(last)
            step = rest
        if mask != np.uint64(0):
            if shift == 1:
                mask = (mask | (mask >> np.uint64(1))) & _EVERY_2
            elif shift == 2:
                mask |= mask >> np.uint64(1)
                mask = (mask | (mask >> np.uint64(2))) & _EVERY_4
            elif shift == 3:
                mask |= mask >> np.uint64(1)
                mask |= mask >> np.uint64(2)
                mask = (mask | (mask >> np.uint64(4))) & _EVERY_8
            while mask != np.uint64(0) and found < most:
                offset = byte + trailing_zeros(mask)
                positions[found] = base + (offset >> shift)
                values[found] = load_item(here, offset, 1 << shift)
                found += 1
                mask &= mask - np.uint64(1)
        byte += step
    return found


@inner
def _write_frame(itemsize, positions, values, found, target):
    """Write the payload of a frame to `target`; returns its bytes."""
    at = 8
    last = -1
    for change in range(found):
        gap = positions[change] - last - 1
        last = positions[change]
        while gap >= 255:
            store1(target, at, np.uint64(255))
            at += 1
            gap -= 255
        store1(target, at, np.uint64(gap))
        at += 1
    store4(target, 0, np.uint64(found))
    store4(target, 4, np.uint64(at - 8))
    for plane in range(itemsize):
        for change in range(found):
            store1(target, at + change, values[change] >> np.uint64(plane << 3))
        at += found
    return at


@inner
def _same(left, right, width):
    """Whether two rows of `width` bytes are equal."""
    varied = np.uint64(0)
    for byte in range(width):
        varied |= load1(left, byte) ^ load1(right, byte)
    return varied == np.uint64(0)


@inner
def _wide_column(task, order, rows, hashes, zeros, positions, values, segments, used):
    """Frames of changes of one wide column. Returns (filter, segments used).

    Changes are given up when they need more than an eighth of the plain bytes: noise has nothing to gain, and where
    whole pictures move, LZ matches serve better. The frames are then the plain rows.
    """
    address, width, itemsize, keys = task[ADDRESS], task[WIDTH], task[ITEMSIZE], task[KEYS]
    frame, place = task[FRAME_ROWS], task[PLACE]
    limit = rows * width // 8
    shift: int = trailing_zeros(np.uint64(itemsize))
    items = width >> shift
    begun = used
    size = np.int64(0)
    pays = True
    equal = True
    found = np.int64(0)
    inside = np.int64(0)
    here = address
    for row in range(rows):
        above = zeros if inside == 0 else here
        here = address + np.int64(order[row]) * width
        if row + 1 < rows:
            ahead = address + np.int64(order[row + 1]) * width
            for line in range(0, width, 64):
                prefetch(ahead, line)
        hashes[row] += nh_row(here, width, keys)
        if pays:
            before = found
            found = _compare(above, here, width, shift, inside * items, positions, values, found)
            if row > 0 and equal:
                if inside:
                    equal = before == found
                else:
                    equal = _same(address + np.int64(order[0]) * width, here, width)
            if found == positions.shape[0] or size + found * (itemsize + 1) > limit:
                pays = False
        inside += 1
        if inside == frame or row == rows - 1:
            if pays:
                written = _write_frame(itemsize, positions, values, found, place + size)
                segments[used, 0] = place + size
                segments[used, 1] = written
                used += 1
                size += written
            inside = np.int64(0)
            found = np.int64(0)
    if equal and pays:
        return CONSTANT, begun
    if pays:
        return CHANGES, used
    used = begun
    for row in range(rows):
        copy_bytes(place + row * width, address + np.int64(order[row]) * width, width)
    for row in range(0, rows, frame):
        segments[used, 0] = place + row * width
        segments[used, 1] = min(frame, rows - row) * width
        used += 1
    return NONE, used


@kernel
def encode_columns(tasks, rows, order, start, hashes, zeros, positions, values, work, segments, outcome):
    """Bring every column of a block into sorted order and filter it, ready to be compressed; hash the rows.

    tasks      int64 (columns, 9): ADDRESS, WIDTH, ITEMSIZE, WIDE, FRAME_ROWS, PLACE, FILTERED, KEYS, FILTER;
               PLACE and FILTERED are addresses in the work buffer that begins at `work`
    zeros      address of as many zero bytes as the widest row has
    positions, values  int64 and uint64 scratch of equal length
    segments   int64 (n, 2) out: offset in the work buffer and bytes of each frame
    outcome    int64 (columns, 2) out: filter used, frames
    hashes     uint64 (rows,) out. Returns the number of segments.
    """
    for row in range(rows):
        hashes[row] = start
    used = np.int64(0)
    for column in range(tasks.shape[0]):
        task = tasks[column]
        begun = used
        if task[WIDE]:
            chosen, used = _wide_column(task, order, rows, hashes, zeros, positions, values, segments, used)
        else:
            chosen = task[FILTER]
            place, itemsize = task[PLACE], task[ITEMSIZE]
            width = task[WIDTH]
            if width == 1 or width == 2 or width == 4 or width == 8:
                equal = gather_scalar(task[ADDRESS], width, chosen == BITS, task[KEYS], order, rows, hashes, place)
            else:
                equal = gather_vector(task[ADDRESS], width, task[KEYS], order, rows, hashes, place)
            stride = np.int64(0)
            if chosen == DELTA:
                if delta_pays(place, rows * width // itemsize, itemsize, width // itemsize):
                    stride = width // itemsize
                else:
                    chosen = PLANES
            target = task[FILTERED]
            if equal:
                chosen = CONSTANT
            else:
                for first in range(0, rows, task[FRAME_ROWS]):
                    inside = min(task[FRAME_ROWS], rows - first)
                    source = place + first * width
                    size = inside * width
                    segments[used, 0] = source if chosen == NONE else target
                    if chosen == BITS:
                        to_bits(source, inside, target)
                        size = (inside + 7) >> 3
                    elif chosen != NONE:
                        to_planes(source, size // itemsize, itemsize, stride, target)
                    segments[used, 1] = size
                    target += size
                    used += 1
        outcome[column, 0] = chosen
        outcome[column, 1] = used - begun
    for segment in range(used):
        segments[segment, 0] -= work
    for row in range(rows):
        hashes[row] = mix(hashes[row])
    return used


@inner
def read_gap(at, end):
    """How many items on the next change is, and the address after that; 0 items where the payload ends before."""
    gap = np.int64(1)
    while at < end:
        step = np.int64(load1(at, 0))
        at += 1
        gap += step
        if step < 255:
            return gap, at
    return np.int64(0), at


@kernel
def replay_frame(payload, size, width, itemsize, frame_rows, wanted, places, target, scratch):
    """Rebuild rows of one frame of changes. Everything in the payload is checked: it may be hostile.

    payload, size  address and bytes of the payload
    wanted         int64, rows in the frame to give, rising
    places         int64, as long: row i of `wanted` goes to `target` + places[i] * width. So rows can be rebuilt where
                   they are to end up, in whatever order that is, without another copy.
    scratch        0; or address of a row's bytes: rows are then rebuilt there and streamed to the target, past the
                   caches. Target, scratch and width are multiples of 64.
    Returns 0, or 1 for a malformed payload.
    """
    if size < 8:
        return 1
    changes = np.int64(load4(payload, 0))
    gap_bytes = np.int64(load4(payload, 4))
    if 8 + gap_bytes + changes * itemsize != size:
        return 1
    items = width // itemsize
    gap_at = payload + 8
    gap_end = gap_at + gap_bytes
    values = gap_end
    row = 0
    item = np.int64(-1)
    change = 0
    pending = False
    before = target
    far = 1 if width > 1024 else 6  # rows, so that a line has some 200 ns to come
    for place in range(wanted.shape[0]):
        here = scratch if scratch else target + places[place] * width
        if place == 0:
            for byte in range(width):
                store1(here, byte, np.uint64(0))
        elif not scratch:
            copy_bytes(here, before, width)
            if place + far < wanted.shape[0] and places[place + 1] != places[place] + 1:
                # Nothing else foresees where rows go.
                ahead = target + places[place + far] * width
                for line in range(0, width, 64):
                    prefetch(ahead, line)
        before = here
        # apply every change up to the end of row wanted[place]
        while True:
            if not pending:
                if change == changes:
                    break
                gap, gap_at = read_gap(gap_at, gap_end)
                if gap == 0:
                    return 1
                item += gap
                while item >= items:
                    item -= items
                    row += 1
                    if row >= frame_rows:
                        return 1
                pending = True
            if row > wanted[place]:
                break
            for plane in range(itemsize):
                store1(here, item * itemsize + plane, load1(values, plane * changes + change))
            change += 1
            pending = False
        if scratch:
            for line in range(0, width, 64):
                stream64(target + places[place] * width, scratch, line)
    if wanted.shape[0] and wanted[wanted.shape[0] - 1] == frame_rows - 1 and (change != changes or gap_at != gap_end):
        return 1
    return 0


@kernel
def replay_frames(frames, width, itemsize, wanted, places, target, scratch):
    """`replay_frame` over many frames. `frames`: int64 (n, 5) of address, bytes, rows in the frame, first index in
    `wanted` and `places` and the index after the last. Returns the first malformed frame, or -1."""
    for frame in range(frames.shape[0]):
        begin, end = frames[frame, 3], frames[frame, 4]
        bad = replay_frame(
            frames[frame, 0],
            frames[frame, 1],
            width,
            itemsize,
            frames[frame, 2],
            wanted[begin:end],
            places[begin:end],
            target,
            scratch,
        )
        if bad:
            return frame
    if scratch:
        fence()
    return -1
