#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""
libp2mtrack with ctypes, with nothing compiled: the structures, a class over the handle, and a
program that migrates simulated guests with the whole interface, as migrate.c does. Not a package,
and not fast: each page takes a few calls.

    p2mtrack.py LIBP2MTRACK LIBHARNESS [SCENARIO [SEEDS]]    default: all 3

Exit status as of migrate.c. Rules with ctypes:
- Declare the types of all arguments: an undeclared number is cut to 32 bits.
- Keep callbacks alive as long as the handle: ctypes does not.
- Callbacks must not raise: ctypes would print the exception, and return an arbitrary value to the
  library.
- Callbacks run under the interpreter's lock, on the thread of the call. The library's own threads
  never call back.
"""

import sys
from ctypes import (CDLL, CFUNCTYPE, POINTER, Structure, byref, c_char, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t,
                    c_uint32, c_uint64, c_void_p, sizeof)
from errno import EIO

u32, i32, u64, i64, size_t, pointer = c_uint32, c_int32, c_uint64, c_int64, c_size_t, c_void_p
words = POINTER(u64)


def struct(name, *fields):
    """A structure of the header: types, each followed by the names of the fields that have it."""
    pairs = zip(fields[::2], fields[1::2])
    return type(name, (Structure,), {"_fields_": [(field, kind) for kind, names in pairs for field in names.split()]})


Roots = struct("p2mt_roots", u32, "size zero", u64, "pfn_count frame_list_list p2m_cr3 p2m_vaddr generation")
CALLS = {  # in the order of struct p2mt_host
    "domain_frames": struct("p2mt_domain_frames_call", words, "frames"),
    "roots": struct("p2mt_roots_call", POINTER(Roots), "roots"),
    "read": struct("p2mt_read_call", u64, "mfn", words, "words"),
    "map": struct("p2mt_map_call", words, "mfns", size_t, "count", POINTER(pointer), "addresses",
                  POINTER(i32), "errors"),
    "unmap": struct("p2mt_unmap_call", POINTER(pointer), "addresses", size_t, "count"),
    "types": struct("p2mt_types_call", words, "mfns", size_t, "count", POINTER(u32), "types"),
    "unlogged": struct("p2mt_unlogged_call", words, "pfns", size_t, "capacity", POINTER(size_t), "count"),
    "accepts_transfer": struct("p2mt_accepts_transfer_call", POINTER(i32), "accepts"),
    "log": struct("p2mt_log_call", u32, "level", c_char_p, "text"),
    "transfers": struct("p2mt_transfers_call", words, "names", size_t, "capacity", POINTER(size_t), "count"),
}
CALLBACKS = {name: CFUNCTYPE(c_int, pointer, POINTER(call)) for name, call in CALLS.items()}
lent = [part for name, callback in CALLBACKS.items() for part in (callback, name)]
Host = struct("p2mt_host", u32, "size zero", pointer, "user", *lent[:-2],
              pointer, "m2p", u64, "m2p_frames compat_m2p_mfn", *lent[-2:])  # the last callback was added later
Config = struct("p2mt_config", u32, "size width mode threads kernel verify alias foreign_pte uncertain_rounds_max "
                "unaccounted")
LogBuffer = struct("p2mt_log_buffer", words, "words", u64, "pfns")
Page = struct("p2mt_page", u64, "pfn mfn entry", u32, "type causes")
Answer = struct("p2mt_page_answer", u32, "verdict reason", i32, "errnum", u32, "zero")
TableFault = struct("p2mt_table_fault", u32, "size cause", u64, "mfn", u32, "level slot")
ClearedPte = struct("p2mt_cleared_pte", u64, "pfn mfn")
Report = struct("p2mt_report", u32, "size stage", u64, "round pfn_count", u32, "threads kernel", u64,
                "log_dirty_pfns leaves_tracked leaves_distinct leaves_dirty leaves_fresh leaves_dropped "
                "leaves_compared leaves_unchanged entries_mapped entries_unmapped entries_remapped entries_other "
                "entries_beyond_log_dirty structure_generation structure_roots structure_pfn_count structure_dirty "
                "structure_entries structure_moved structure_walks structure_retries pages_owed pages_accepted "
                "pages_tables pages_unpopulated pages_deferred_m2p pages_deferred_frame pages_deferred_table "
                "pages_deferred_uncertain pages_moved pages_returned pages_left settled_gone settled_foreign "
                "settled_m2p_stale settled_aliases settled_cleared_ptes settled_unlogged uncertain",
                i32, "p2m_unreadable shrinking", c_double, "dirty_rate", i64, "unaccounted_frames")
Totals = struct("p2mt_totals", u32, "size zero", u64, "rounds rounds_given_up pages_accepted pages_deferred "
                "entries_changed entries_beyond_log_dirty owed shadow_bytes")
PfnState = struct("p2mt_pfn_state", u32, "size causes defer zero", u64, "entry")
Error = struct("p2mt_error", u32, "size", i32, "code errnum level", u64, "pfn mfn", c_char * 488, "text")

# Only the constants that are used here.
P2MT_NONE = 2**64 - 1
P2MT_E_BUSY, P2MT_E_TABLE = -16, -78
P2MT_WIDTH_64, P2MT_FULL, P2MT_LOG_ERROR = 64, 0, 1
P2MT_LIVE, P2MT_CHECKPOINT, P2MT_FINAL = 0, 1, 2
P2MT_BATCH_MAX, P2MT_DO_FRAME_LIST = 1024, 2
P2MT_ACCEPTED, P2MT_DEFERRED = 0, 1
P2MT_DEFER_MAP, P2MT_DEFER_TABLE = 5, 6

out_size, out_u64, out_u32 = POINTER(size_t), POINTER(u64), POINTER(u32)
P2MTRACK = {  # what each returns, then what it takes
    "p2mt_version": (u32,), "p2mt_strerror": (c_char_p, c_int),
    "p2mt_create": (c_int, POINTER(Config), POINTER(Host), POINTER(Error), POINTER(pointer)),
    "p2mt_destroy": (c_int, pointer), "p2mt_last_error": (c_int, pointer, POINTER(Error)),
    "p2mt_begin": (c_int, pointer, u32, POINTER(LogBuffer)), "p2mt_feed": (c_int, pointer, u64, words, u64),
    "p2mt_scan": (c_int, pointer, u64, POINTER(Report)),
    "p2mt_take": (c_int, pointer, POINTER(Page), size_t, size_t, out_size, out_u32),
    "p2mt_normalise": (c_int, pointer, size_t, words, POINTER(TableFault)),
    "p2mt_answer": (c_int, pointer, POINTER(Answer), size_t, size_t), "p2mt_accept": (c_int, pointer, size_t),
    "p2mt_frame_list": (c_int, pointer, words, size_t, out_size, out_u64, out_u64),
    "p2mt_frame_list_sent": (c_int, pointer, u64), "p2mt_return": (c_int, pointer, words, size_t), "p2mt_gone": (c_int, pointer, u64, words, size_t, out_size),
    "p2mt_cleared_ptes": (c_int, pointer, POINTER(ClearedPte), size_t, size_t, out_size),
    "p2mt_end": (c_int, pointer, POINTER(Report)), "p2mt_cancel": (c_int, pointer),
    "p2mt_verify": (c_int, pointer, u32),
    "p2mt_stats": (c_int, pointer, POINTER(Totals)), "p2mt_why": (c_int, pointer, u64, POINTER(PfnState)),
}
HARNESS = {
    "harness_scenario": (c_char_p, size_t), "harness_is_hostile": (c_int, c_char_p),
    "harness_new": (pointer, c_char_p, u64, u64, u32, u32), "harness_free": (None, pointer),
    "harness_checkpoints": (u32, pointer), "harness_wants_suspend": (c_int, pointer),
    "harness_suspend": (None, pointer), "harness_resume": (None, pointer),
    "harness_m2p_frames": (u64, pointer), "harness_m2p": (pointer, pointer),
    "harness_domain_frames": (c_int, pointer, words), "harness_roots": (c_int, pointer, words),
    "harness_read": (c_int, pointer, u64, words),
    "harness_map": (c_int, pointer, words, size_t, POINTER(pointer), POINTER(i32)),
    "harness_unmap": (c_int, pointer, POINTER(pointer), size_t),
    "harness_types": (c_int, pointer, words, size_t, POINTER(u32)),
    "harness_unlogged": (c_int, pointer, words, size_t, out_size),
    "harness_accepts_transfer": (c_int, pointer, POINTER(i32)),
    "harness_transfers": (c_int, pointer, words, size_t, out_size),
    "harness_log_on": (c_int, pointer), "harness_log_off": (c_int, pointer),
    "harness_clean": (c_int, pointer, words, u64, out_u64),
    "harness_read_page": (c_int, pointer, u64, u32, out_u64, words),
    "harness_send_page": (c_int, pointer, u64, u32, u64, words),
    "harness_send_frame_list": (c_int, pointer, words, size_t, u64),
    "harness_send_gone": (c_int, pointer, words, size_t), "harness_confirm": (c_int, pointer),
    "harness_judge": (c_int, pointer), "harness_explain": (None, pointer), "harness_harm": (c_char_p, pointer),
}


def load(path, functions):
    library = CDLL(path)
    for name, (result, *arguments) in functions.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class P2mError(Exception):
    """
    A call failed. `errno` is negative, or 0. `pfn` and `mfn` are None, and `level` is -1, if the
    error names none.
    """

    def __init__(self, error):
        self.code, self.errno, self.level, self.text = error.code, error.errnum, error.level, error.text.decode()
        self.pfn, self.mfn = (None if number == P2MT_NONE else number for number in (error.pfn, error.mfn))
        super().__init__(f"{self.text} (code {self.code}, errno {self.errno})")


class Migration:
    """
    A handle; `close` it, or use it with `with`. `host` has a method for each callback, which takes
    the structure of the call and raises OSError for an errno. Any other exception of a callback is
    raised again after the library has returned.
    """

    def __init__(self, library, host, m2p, m2p_frames, **config):
        self.library, self.raised, self.handle = library, None, pointer()
        lent = {name: kind(self._guard(getattr(host, name))) for name, kind in CALLBACKS.items()}
        # Keeps the callbacks alive.
        self.lent = Host(size=sizeof(Host), m2p=m2p, m2p_frames=m2p_frames, compat_m2p_mfn=P2MT_NONE, **lent)
        error = Error(size=sizeof(Error))
        asked = Config(size=sizeof(Config), width=P2MT_WIDTH_64, **config)
        if library.p2mt_create(byref(asked), byref(self.lent), byref(error), byref(self.handle)):
            raise P2mError(error)
        self.pages, self.answers = (Page * P2MT_BATCH_MAX)(), (Answer * P2MT_BATCH_MAX)()

    def _guard(self, function):
        def callback(_user, call):
            try:
                function(call.contents)
                return 0
            except OSError as error:
                return -(error.errno or EIO)
            except BaseException as error:  # ctrl-C too
                self.raised = error
                return -EIO
        return callback

    def _call(self, name, *arguments, expected=0):
        code = getattr(self.library, name)(self.handle, *arguments)
        if name == "p2mt_destroy" and code != P2MT_E_BUSY:
            self.handle = None
        if self.raised:
            raised, self.raised = self.raised, None
            raise raised
        if code not in (0, expected):
            error = Error(size=sizeof(Error))
            if self.library.p2mt_last_error(self.handle, byref(error)) or error.code != code:  # the handle did not keep it
                error = Error(code=code, level=-1, pfn=P2MT_NONE, mfn=P2MT_NONE, text=self.library.p2mt_strerror(code))
            raise P2mError(error)
        return code

    def close(self):
        self._call("p2mt_destroy")  # NULL is allowed

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def begin(self, stage):
        """The buffer for the log: its `words` must not be used after `scan`."""
        buffer = LogBuffer()
        self._call("p2mt_begin", stage, byref(buffer))
        return buffer

    def scan(self, read):
        report = Report(size=sizeof(Report))
        self._call("p2mt_scan", read, byref(report))
        return report

    def take(self):
        """How many of `pages` are to be sent, and P2MT_DO_*."""
        count, flags = size_t(), u32()
        self._call("p2mt_take", self.pages, sizeof(Page), P2MT_BATCH_MAX, byref(count), byref(flags))
        return count.value, flags.value

    def normalise(self, index, table):
        """False: not now."""
        return self._call("p2mt_normalise", index, table, None, expected=P2MT_E_TABLE) == 0

    def answer(self, count):
        """Answers the `count` pages that were taken, with the first `count` of `answers`."""
        self._call("p2mt_answer", self.answers, sizeof(Answer), count)

    def accept(self, count):
        """Accepts all `count` pages that were taken."""
        self._call("p2mt_accept", count)

    def frame_list(self):
        """Leaves, the pfns that they cover, and the number of the list for `frame_list_sent`."""
        count, pfn_count, serial = size_t(), u64(), u64()
        self._call("p2mt_frame_list", None, 0, byref(count), byref(pfn_count), byref(serial))
        leaves = (u64 * count.value)()
        self._call("p2mt_frame_list", leaves, count, byref(count), byref(pfn_count), byref(serial))
        return leaves, pfn_count.value, serial.value

    def frame_list_sent(self, serial):
        self._call("p2mt_frame_list_sent", serial)

    def gone(self):
        """Arrays of pfns, each with the number of its valid elements."""
        pfns, count, start = (u64 * 256)(), size_t(), 0
        while True:
            self._call("p2mt_gone", start, pfns, len(pfns), byref(count))
            if not count.value:
                return
            yield pfns, count.value
            start = pfns[count.value - 1] + 1

    def cleared_ptes(self):
        count = size_t()
        self._call("p2mt_cleared_ptes", None, sizeof(ClearedPte), 0, byref(count))
        ptes = (ClearedPte * count.value)()
        self._call("p2mt_cleared_ptes", ptes, sizeof(ClearedPte), count, byref(count))
        return ptes

    def return_lost(self, pfns):
        self._call("p2mt_return", (u64 * len(pfns))(*pfns), len(pfns))

    def end(self):
        report = Report(size=sizeof(Report))
        self._call("p2mt_end", byref(report))
        return report

    def cancel(self):
        self._call("p2mt_cancel")

    def verify(self, verify):
        self._call("p2mt_verify", verify)

    def stats(self):
        totals = Totals(size=sizeof(Totals))
        self._call("p2mt_stats", byref(totals))
        return totals

    def why(self, pfn):
        state = PfnState(size=sizeof(PfnState))
        self._call("p2mt_why", pfn, byref(state))
        return state


# --- a toolstack, on the simulated Xen of harness.h


class Guest:
    """Calls of the harness for one guest."""

    def __init__(self, library, *arguments):
        self.library, self.at = library, library.harness_new(*arguments)

    def __getattr__(self, name):
        """harness_NAME for this guest. A negative number is an errno."""
        function = getattr(self.library, "harness_" + name)

        def call(*arguments):
            result = function(self.at, *arguments)
            if function.restype is c_int and result < 0:
                raise OSError(-result, "harness_" + name)
            return result
        setattr(self, name, call)
        return call


class Lent:
    """The host's side of a migration."""

    def __init__(self, guest):
        self.guest = guest

    def domain_frames(self, call):
        self.guest.domain_frames(call.frames)

    def roots(self, call):
        found = (u64 * 5)()
        self.guest.roots(found)
        for name, word in zip("pfn_count frame_list_list p2m_cr3 p2m_vaddr generation".split(), found):
            setattr(call.roots[0], name, word)

    def read(self, call):
        self.guest.read(call.mfn, call.words)

    def map(self, call):
        self.guest.map(call.mfns, call.count, call.addresses, call.errors)

    def unmap(self, call):
        self.guest.unmap(call.addresses, call.count)

    def types(self, call):
        self.guest.types(call.mfns, call.count, call.types)

    def unlogged(self, call):
        self.guest.unlogged(call.pfns, call.capacity, call.count)

    def accepts_transfer(self, call):
        self.guest.accepts_transfer(call.accepts)

    def transfers(self, call):
        self.guest.transfers(call.names, call.capacity, call.count)

    def log(self, call):
        if call.level <= P2MT_LOG_ERROR:
            print("p2mtrack:", call.text.decode(), file=sys.stderr)


def answer_for(guest, p2mt, index, table):
    """Sends a page that was taken. Returns the answer for it."""
    page, content = p2mt.pages[index], u64()
    try:
        guest.read_page(page.mfn, page.type, byref(content), table)
    except OSError as error:
        return Answer(verdict=P2MT_DEFERRED, reason=P2MT_DEFER_MAP, errnum=-error.errno)
    if page.type and not p2mt.normalise(index, table):
        return Answer(verdict=P2MT_DEFERRED, reason=P2MT_DEFER_TABLE)
    guest.send_page(page.pfn, page.type, content, table)
    return Answer(verdict=P2MT_ACCEPTED)


def run_round(guest, p2mt, stage):
    buffer, read, table = p2mt.begin(stage), u64(), (u64 * 512)()
    if buffer.pfns:
        guest.clean(buffer.words, buffer.pfns, byref(read))
    p2mt.scan(read.value)
    count = 1
    while count:
        count, flags = p2mt.take()
        if flags & P2MT_DO_FRAME_LIST:
            leaves, pfn_count, serial = p2mt.frame_list()
            guest.send_frame_list(leaves, len(leaves), pfn_count)
            p2mt.frame_list_sent(serial)
        for index in range(count):
            p2mt.answers[index] = answer_for(guest, p2mt, index, table)
        if count:
            p2mt.answer(count)
    if stage != P2MT_LIVE:
        for pfns, many in p2mt.gone():
            guest.send_gone(pfns, many)
        guest.confirm()
    p2mt.end()


def migrate(guest, p2mt):
    """Whether the destination is identical, after each suspended round."""
    for _ in range(guest.checkpoints()):
        run_round(guest, p2mt, P2MT_LIVE)
        guest.suspend()
        run_round(guest, p2mt, P2MT_CHECKPOINT)
        if guest.judge():
            return False
        guest.resume()
    while not guest.wants_suspend():
        run_round(guest, p2mt, P2MT_LIVE)
    guest.suspend()
    run_round(guest, p2mt, P2MT_FINAL)
    return guest.judge() == 0


def run(p2mtrack, harness, scenario, seed):
    """Whether the result is right."""
    guest = Guest(harness, scenario, seed, 32 << 20, 1, P2MT_WIDTH_64)
    guest.log_on()
    with Migration(p2mtrack, Lent(guest), guest.m2p(), guest.m2p_frames(), mode=P2MT_FULL) as p2mt:
        try:
            right = migrate(guest, p2mt)
            if not right:
                guest.explain()
        except (P2mError, OSError) as error:
            guest.suspend()
            print(f"{scenario.decode()} {seed}: ended with {error}")
            right = harness.harness_is_hostile(scenario)
    guest.log_off()
    harm = guest.harm()
    if harm or not right:
        print(f"{scenario.decode()} {seed}: WRONG {(harm or b'').decode()}")
    harness.harness_free(guest.at)
    return right and not harm


def main(p2mtrack, harness, only="all", seeds=3):
    p2mtrack, harness = load(p2mtrack, P2MTRACK), load(harness, HARNESS)
    runs = wrong = index = 0
    while scenario := harness.harness_scenario(index):
        index += 1
        if only in ("all", scenario.decode()):
            for seed in range(1, int(seeds) + 1):
                runs += 1
                wrong += not run(p2mtrack, harness, scenario, seed)
    print(f"{runs} migrations with 1 threads, {wrong} wrong")
    return not runs or wrong > 0


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 5:
        sys.exit("usage: p2mtrack.py LIBP2MTRACK LIBHARNESS [SCENARIO [SEEDS]]")
    sys.exit(main(*sys.argv[1:]))
