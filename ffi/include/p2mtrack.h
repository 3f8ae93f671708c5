/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * p2mtrack: dirty tracking for the live migration of Xen PV guests that change
 * their p2m while they run.
 *
 * The host keeps its loop, its hypercalls and its stream. It lends callbacks
 * that read the guest's p2m, and steps a handle through rounds:
 *
 *     p2mt_create
 *     each round:  p2mt_begin   lends a buffer for log-dirty
 *                  p2mt_scan    takes the log, compares, finds what is owed
 *                  p2mt_take    the next pages to send, until there are none
 *                  p2mt_answer  what became of them, or p2mt_accept
 *                  p2mt_frame_list, p2mt_frame_list_sent: when it changed
 *                  p2mt_gone    suspended rounds: pfns without a frame
 *                  p2mt_end     the destination has it; the report
 *     p2mt_cancel  at any point; p2mt_destroy
 *
 * Conventions, ownership, threads and versions: docs/abi.md. How a toolstack
 * adopts it: docs/adopt.md. In short:
 *
 * - Functions return P2MT_OK (0) or a negative code below; codes are never
 *   renumbered. The details of the last error are the handle's
 *   (p2mt_last_error), not the thread's. What a function may return beside
 *   E_ARGUMENT, E_SIZE, E_BUSY, E_FORKED and E_PANIC is listed with it.
 * - Errnos are negative, wherever they are said: by callbacks, in answers, in
 *   errors.
 * - Output arguments are written only on success, unless a function says so.
 * - A structure that may grow starts with its size, set by the caller; of an
 *   array whose elements may grow a call takes the size of one. Others never
 *   change: a call that needs more becomes another call. Bits and numbers that
 *   a host does not know tell it something, and ask nothing of it.
 * - A handle is used by one thread at a time, any thread. Callbacks are called
 *   on the thread of the call that needs them, and may not call the handle.
 * - Frames are of 4 KiB; pfns and mfns are numbers of frames. Bit n % 64 of
 *   word n / 64 of a bitmap is pfn n, in the host's byte order, as Xen's
 *   log-dirty bitmap is on a little-endian host.
 * - What no sender can know is the host's to say, or lost (README, "Limits";
 *   docs/adopt.md): writers without a log-dirty mark (p2mt_host.unlogged), and
 *   frames that came by a grant transfer (accepts_transfer, transfers). A frame
 *   that the guest got from Xen and never wrote has no contents to be kept.
 * - Nothing global: no thread, allocator, signal handler or output of the
 *   library's own outside of a handle. A handle of a parent process is refused
 *   in the child.
 */
#ifndef P2MTRACK_H
#define P2MTRACK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this header; p2mt_version() is the library's. */
#define P2MT_VERSION_MAJOR 0
#define P2MT_VERSION_MINOR 1
#define P2MT_VERSION_PATCH 0
#define P2MT_VERSION \
    (P2MT_VERSION_MAJOR << 16 | P2MT_VERSION_MINOR << 8 | P2MT_VERSION_PATCH)

/* --- codes ---------------------------------------------------------------- */

#define P2MT_OK 0
/*
 * One of the host's callbacks domain_frames, roots, unlogged, accepts_transfer
 * or transfers failed (p2mt_error.errnum). Failures of `types`, `map` and
 * `read` leave something uncertain while the guest runs; of a suspended one
 * they are E_ENTRY and E_STRUCTURE, with the same errnum.
 */
#define P2MT_E_HOST (-5)
/*
 * A structure is shorter than this version's first, or has bytes set that this
 * library does not know.
 */
#define P2MT_E_SIZE (-7)
/* The handle was created by another process. */
#define P2MT_E_FORKED (-10)
/* The engine's threads can't be started. */
#define P2MT_E_THREADS (-11)
/*
 * The handle is in use: by another thread, or by the call whose callback this
 * is.
 */
#define P2MT_E_BUSY (-16)
/* An argument: NULL, out of range, or not aligned. */
#define P2MT_E_ARGUMENT (-22)
/*
 * An environment variable (P2MTRACK_KERNEL, P2MTRACK_SHADOW) asks for what is
 * not there.
 */
#define P2MT_E_ENVIRONMENT (-38)
/*
 * p2mt_end: an uncertainty of one kind ran for more rounds than
 * p2mt_config.uncertain_rounds_max. If it is of leaves that are not mapped, the
 * first of them is named. A p2m that can't be followed for so long is not this
 * but P2MT_E_ROOTS, P2MT_E_STRUCTURE or P2MT_E_P2M_SIZE, by p2mt_scan or
 * p2mt_take, which name what is wrong.
 */
#define P2MT_E_UNCERTAIN (-62)
/* A call that makes no sense now. Nothing changed. */
#define P2MT_E_ORDER (-71)
/* A page that the host could not send, said by P2MT_FAILED. */
#define P2MT_E_PAGE (-72)
/* The roots of the p2m can't be followed. */
#define P2MT_E_ROOTS (-73)
/* A frame of the p2m's structure can't be used. */
#define P2MT_E_STRUCTURE (-74)
/* The p2m reaches further than the domain's frames can justify. */
#define P2MT_E_P2M_SIZE (-75)
/* More pfns wait than the domain holds frames. */
#define P2MT_E_TOO_MANY_DEFERRED (-76)
/*
 * A pfn that a suspended round can't settle, or in any round one whose frame is
 * broken.
 */
#define P2MT_E_ENTRY (-77)
/* A page table that a suspended round can't normalise. */
#define P2MT_E_TABLE (-78)
/*
 * The guest is of the other width than p2mt_config.width: its roots, or the
 * start of its p2m, show it.
 */
#define P2MT_E_WIDTH (-79)
/*
 * The frames that the domain holds, and those that its pfns have, differ by
 * more than real guests' do, at the end of a suspended round.
 */
#define P2MT_E_UNACCOUNTED (-80)
/*
 * The library has a defect, and the handle met it. Every later call says this.
 */
#define P2MT_E_PANIC (-131)

/*
 * Said in place of an errno: the frame is not the domain's (now). No errno has
 * this number. Of a frame that is nobody's, another domain's or Xen's own,
 * Linux's privcmd says EINVAL, EBUSY or EPERM for that frame alone: a host
 * makes P2MT_NOT_OWNED of these three. What a whole call fails with, and any
 * other errno of one frame, is an errno here, too.
 */
#define P2MT_NOT_OWNED (-4096)

/* No pfn, no mfn, an invalid entry. */
#define P2MT_NONE UINT64_MAX

/* --- the host's side ------------------------------------------------------ */

/* The fields of shared_info.arch that say where the p2m is. */
struct p2mt_roots {
    /* the library's: a host writes no field that lies past it */
    uint32_t size;
    uint32_t zero;
    uint64_t pfn_count;       /* max_pfn: a count */
    uint64_t frame_list_list; /* pfn_to_mfn_frame_list_list */
    uint64_t p2m_cr3;         /* as the guest wrote it */
    uint64_t p2m_vaddr;
    uint64_t generation;      /* p2m_generation */
};

struct p2mt_domain_frames_call {
    uint64_t *frames; /* out: frames that the domain holds (tot_pages) */
};
struct p2mt_roots_call {
    struct p2mt_roots *roots; /* out */
};
struct p2mt_read_call {
    uint64_t mfn;
    uint64_t *words; /* out: the frame's 512 words, each read once */
};
struct p2mt_map_call {
    const uint64_t *mfns;
    size_t count;
    /*
     * out: where each frame is mapped for reading, aligned to 8 bytes, or NULL
     */
    const void **addresses;
    /* out: for each NULL, P2MT_NOT_OWNED or a negative errno */
    int32_t *errors;
};
struct p2mt_unmap_call {
    const void *const *addresses; /* as `map` gave them */
    size_t count;
};
struct p2mt_types_call {
    const uint64_t *mfns;
    size_t count;    /* at most 1024 */
    /*
     * out: as XEN_DOMCTL_getpageframeinfo3 says, in bits 28 to 31; the rest is
     * not looked at
     */
    uint32_t *types;
};
struct p2mt_unlogged_call {
    uint64_t *pfns; /* out */
    size_t capacity;
    /*
     * out: how many there are; if more than capacity, the callback is called
     * again with more
     */
    size_t *count;
};
struct p2mt_accepts_transfer_call {
    /*
     * out: not 0 if an entry of the grant table is GTF_accept_transfer, now or
     * at any time since this was last asked. A host that can only look says
     * what stands there now: what is offered, used and withdrawn between two
     * looks is lost.
     */
    int32_t *accepts;
};
struct p2mt_transfers_call {
    /*
     * out: the frame field of each transfer entry of the grant table, as
     * P2MT_TRANSFER_CAME says. If accepts_transfer said not 0 and none is
     * named, it may be any: everything is owed while suspended.
     */
    uint64_t *names;
    size_t capacity;
    /*
     * out: how many there are; if more than capacity, the callback is called
     * again with more
     */
    size_t *count;
};
struct p2mt_log_call {
    uint32_t level;   /* P2MT_LOG_* */
    const char *text; /* until the callback returns */
};

/*
 * Or-ed to the name of an entry that is completed (GTF_transfer_completed): it
 * is the mfn of the frame that came. Of any other it is the pfn that a frame is
 * to have. An entry that is committed and not completed may have either, and is
 * named twice, with and without.
 */
#define P2MT_TRANSFER_CAME (UINT64_C(1) << 63)

#define P2MT_LOG_ERROR 1
#define P2MT_LOG_WARNING 2
#define P2MT_LOG_INFO 3

/*
 * What the library asks of the host. Each takes `user` and a pointer to its
 * arguments, which live until it returns, and returns 0 or a negative errno.
 * All are required, `log` and `transfers` apart. Frame numbers may be any: they
 * are the guest's. If `map` fails as a whole, what it wrote as mapped is
 * unmapped. Failures of `map`, `read`, `unmap` and `types` are reported to the
 * log, those with the same errno once a round; not that a frame is
 * P2MT_NOT_OWNED. The memory at an address that `map` gave is read until
 * `unmap`, by all threads of the handle; the guest may write it.
 */
struct p2mt_host {
    uint32_t size; /* sizeof(struct p2mt_host) */
    uint32_t zero;
    void *user; /* the first argument of each callback */
    int (*domain_frames)(void *user,
                         const struct p2mt_domain_frames_call *call);
    int (*roots)(void *user, const struct p2mt_roots_call *call);
    int (*read)(void *user, const struct p2mt_read_call *call);
    int (*map)(void *user, const struct p2mt_map_call *call);
    int (*unmap)(void *user, const struct p2mt_unmap_call *call);
    int (*types)(void *user, const struct p2mt_types_call *call);
    /*
     * Pfns whose frames are written without a log-dirty mark. Asked in
     * suspended rounds.
     */
    int (*unlogged)(void *user, const struct p2mt_unlogged_call *call);
    /* Asked twice a round, on both sides of CLEAN. */
    int (*accepts_transfer)(void *user,
                            const struct p2mt_accepts_transfer_call *call);
    int (*log)(void *user, const struct p2mt_log_call *call);
    /*
     * Xen's mfn to pfn table, mapped for the life of the handle: m2p_frames
     * words, P2MT_NONE or a pfn.
     */
    const uint64_t *m2p;
    uint64_t m2p_frames;      /* frames of the machine */
    /*
     * first frame of the compat m2p: for 32-bit guests, which need it;
     * otherwise 0 or P2MT_NONE
     */
    uint64_t compat_m2p_mfn;
    /*
     * What the transfer entries of the grant table name. Asked after
     * accepts_transfer, each time. May be NULL: then nobody knows which pfns
     * may have got a frame, and each suspended round sends the whole guest, as
     * long as offers stand.
     */
    int (*transfers)(void *user, const struct p2mt_transfers_call *call);
};

/* --- choices -------------------------------------------------------------- */

#define P2MT_WIDTH_32 32
#define P2MT_WIDTH_64 64

#define P2MT_KERNEL_AUTO 0
#define P2MT_KERNEL_SCALAR 1
#define P2MT_KERNEL_WIDE 2
#define P2MT_KERNEL_AVX2 3
#define P2MT_KERNEL_AVX512 4

/* How much is held against the m2p, and against who owns the frames. */
/*
 * What changed; of a suspended guest every entry of a dirty leaf: who gives a
 * frame away has to write its entry.
 */
#define P2MT_VERIFY_DIRTY 0
/*
 * every entry, in every round, also who owns its frame: nobody has to write
 * anything
 */
#define P2MT_VERIFY_FULL 1

#define P2MT_ALIAS_REFUSE 0
#define P2MT_ALIAS_COPY 1
#define P2MT_FOREIGN_PTE_REFUSE 0
#define P2MT_FOREIGN_PTE_CLEAR 1
#define P2MT_UNACCOUNTED_REFUSE 0 /* P2MT_E_UNACCOUNTED */
#define P2MT_UNACCOUNTED_REPORT 1 /* only p2mt_report.unaccounted_frames */

/*
 * mode: the host sends by the entries that it is given, and normalises page
 * tables by p2mt_normalise.
 */
#define P2MT_FULL 0
/*
 * mode: the host sends by the entries that it is given, and normalises by its
 * own mapping of the p2m. That p2m and m2p agree on a frame does not say whose
 * it is: the host asks for the type of each frame that a table names
 * (docs/adopt.md, "Rules of a normaliser").
 */
#define P2MT_PASSIVE 1
/*
 * mode: the host sends and normalises by its own live mapping of the p2m; the
 * same is true of its tables.
 */
#define P2MT_HOST_READS_P2M 2

struct p2mt_config {
    uint32_t size;    /* sizeof(struct p2mt_config) */
    uint32_t width;   /* P2MT_WIDTH_* */
    uint32_t mode;    /* P2MT_FULL, P2MT_PASSIVE, P2MT_HOST_READS_P2M */
    uint32_t threads; /* that compare; 0 and 1 mean the caller's own */
    uint32_t kernel;  /* P2MT_KERNEL_* */
    uint32_t verify;  /* P2MT_VERIFY_* */
    /* two pfns, one frame, in a suspended round: P2MT_ALIAS_* */
    uint32_t alias;
    /*
     * a table that names another domain's frame, in a suspended round:
     * P2MT_FOREIGN_PTE_*
     */
    uint32_t foreign_pte;
    /*
     * rounds running for which an uncertainty of one kind is tolerated while
     * the guest runs; the next one ends with an error. 0 means 5
     */
    uint32_t uncertain_rounds_max;
    /*
     * frames of the domain that no pfn has, in a suspended round:
     * P2MT_UNACCOUNTED_*
     */
    uint32_t unaccounted;
};

/* --- rounds --------------------------------------------------------------- */

#define P2MT_LIVE 0       /* the guest runs */
#define P2MT_CHECKPOINT 1 /* suspended, and will go on (Remus) */
#define P2MT_FINAL 2      /* suspended for good */

/*
 * A buffer for log-dirty, the library's, until p2mt_scan, p2mt_cancel or the
 * next p2mt_begin.
 */
struct p2mt_log_buffer {
    uint64_t *words; /* zeroes; NULL if pfns is 0 */
    /* a multiple of 32,768; 0: log-dirty has not to be read in this round */
    uint64_t pfns;
};

/* A set of causes: why a pfn is owed. */
#define P2MT_CAUSE_FIRST (1u << 0)     /* never sent before */
#define P2MT_CAUSE_LOG_DIRTY (1u << 1) /* its frame is in log-dirty */
#define P2MT_CAUSE_ENTRY (1u << 2)     /* its p2m entry changed */
#define P2MT_CAUSE_STRUCTURE (1u << 3) /* its leaf is backed by another frame */
#define P2MT_CAUSE_GROWTH (1u << 4)    /* the p2m grew over it */
#define P2MT_CAUSE_DEFERRED (1u << 5)  /* it could not be sent before */
/* a page table, and a frame has moved since */
#define P2MT_CAUSE_TABLE (1u << 6)
#define P2MT_CAUSE_UNCERTAIN (1u << 7)     /* something could not be known */
/* it has a writer that log-dirty does not see */
#define P2MT_CAUSE_UNLOGGED (1u << 8)
#define P2MT_CAUSE_RETURNED (1u << 9)  /* accepted, then lost on the way */

/* A page to be sent. */
struct p2mt_page {
    uint64_t pfn;
    uint64_t mfn;   /* the frame to read */
    /* the p2m entry that names it: what is remembered if it is accepted */
    uint64_t entry;
    /* as p2mt_types_call.types: level and pin of a page table, 0 for data */
    uint32_t type;
    uint32_t causes;
};

/* it is on its way, with the bytes read after p2mt_take */
#define P2MT_ACCEPTED 0
#define P2MT_DEFERRED 1 /* not now: owed as before */
#define P2MT_FAILED 2   /* never: the round ends with P2MT_E_PAGE */

/* Why a page was deferred. */
#define P2MT_DEFER_M2P 1       /* p2m and m2p disagree */
/* the entry names a frame that is not the domain's */
#define P2MT_DEFER_NOT_OWNED 2
#define P2MT_DEFER_LEAF 3      /* the leaf of its entry is not mapped */
#define P2MT_DEFER_QUERY 4     /* the type query failed */
#define P2MT_DEFER_MAP 5       /* the frame can't be mapped (answer.errnum) */
#define P2MT_DEFER_TABLE 6     /* the page table can't be normalised now */
#define P2MT_DEFER_NO_ANSWER 7 /* no word from the other side */

/* What became of a page. */
struct p2mt_page_answer {
    uint32_t verdict; /* P2MT_ACCEPTED, P2MT_DEFERRED, P2MT_FAILED */
    /* deferred: P2MT_DEFER_MAP, _TABLE or _NO_ANSWER; otherwise 0 */
    uint32_t reason;
    /* DEFER_MAP: an errno or P2MT_NOT_OWNED; FAILED: an errno; otherwise 0 */
    int32_t errnum;
    uint32_t zero;
};

/* A PTE that stopped a normalisation. */
#define P2MT_PTE_FOREIGN 1
#define P2MT_PTE_UNRESOLVED 2
#define P2MT_PTE_SUPERPAGE 3
struct p2mt_table_fault {
    uint32_t size;  /* sizeof(struct p2mt_table_fault) */
    uint32_t cause; /* P2MT_PTE_* */
    uint64_t mfn;   /* the frame that the PTE names */
    uint32_t level; /* of the table */
    uint32_t slot;
};

/*
 * A PTE that was made not present: P2MT_FOREIGN_PTE_CLEAR. Elements of arrays,
 * which may grow.
 */
struct p2mt_cleared_pte {
    uint64_t pfn; /* of its table */
    uint64_t mfn; /* the frame that it named */
};

/* What one round found, sent and left. Counts; see docs/json.md for each. */
struct p2mt_report {
    uint32_t size;  /* sizeof(struct p2mt_report) */
    uint32_t stage; /* P2MT_LIVE, ... */
    uint64_t round; /* number of the round, from 0 */
    uint64_t pfn_count; /* the guest's count of pfns at the last walk */
    uint32_t threads; /* that compare leaves */
    uint32_t kernel; /* P2MT_KERNEL_* */
    uint64_t log_dirty_pfns; /* pfns in log-dirty */
    uint64_t leaves_tracked; /* positions in the p2m that can hold a frame */
    uint64_t leaves_distinct; /* distinct frames among them */
    uint64_t leaves_dirty; /* positions whose leaf's pfn is in log-dirty */
    /* positions new, or with another frame than before */
    uint64_t leaves_fresh;
    uint64_t leaves_dropped; /* positions that the p2m lost */
    uint64_t leaves_compared; /* leaves compared with what was sent */
    uint64_t leaves_unchanged; /* compared because dirty, and equal */
    uint64_t entries_mapped; /* changed: no frame before, one now */
    uint64_t entries_unmapped; /* changed: a frame before, none now */
    uint64_t entries_remapped; /* changed: another frame now */
    uint64_t entries_other; /* changed: two words that name no frame */
    /* what log-dirty alone would never send */
    uint64_t entries_beyond_log_dirty;
    uint64_t structure_generation; /* p2m_generation moved, or is odd */
    uint64_t structure_roots; /* a root of the p2m moved */
    uint64_t structure_pfn_count; /* the count of pfns moved */
    uint64_t structure_dirty; /* upper frames of the p2m in log-dirty */
    /* entries of the p2m's own frames that changed */
    uint64_t structure_entries;
    uint64_t structure_moved; /* the p2m's own frames under another pfn */
    uint64_t structure_walks; /* walks of the p2m */
    uint64_t structure_retries; /* of these made again */
    uint64_t pages_owed; /* when sending began */
    uint64_t pages_accepted; /* answered P2MT_ACCEPTED */
    uint64_t pages_tables; /* of these page tables */
    uint64_t pages_unpopulated; /* settled without a page: no frame */
    uint64_t pages_deferred_m2p; /* deferred: p2m and m2p disagree */
    /* deferred: not the domain's, or not mapped */
    uint64_t pages_deferred_frame;
    uint64_t pages_deferred_table; /* deferred: page tables */
    /* deferred: leaf, query or answer lacks */
    uint64_t pages_deferred_uncertain;
    uint64_t pages_moved; /* frames that moved to another pfn */
    uint64_t pages_returned; /* by p2mt_return */
    uint64_t pages_left; /* owed when the round ended */
    uint64_t settled_gone; /* suspended rounds: pfns to be given back */
    uint64_t settled_foreign; /* entries with frames not the domain's */
    uint64_t settled_m2p_stale; /* sent though the m2p names another pfn */
    uint64_t settled_aliases; /* sent as copies of another pfn's frame */
    uint64_t settled_cleared_ptes; /* PTEs made not present, by policy */
    uint64_t settled_unlogged; /* sent for writers without a log */
    uint64_t uncertain; /* of all kinds; the log callback names them */
    /* the structure could not be followed: nothing was compared */
    int32_t p2m_unreadable;
    /*
     * The estimate of convergence, from the scan on. Unknown until a round was
     * ended, after one that was given up, and where ranges are owed because
     * something could not be known.
     */
    /* fewer pfns are owed than a round ago: 1, 0, or -1 if it is unknown */
    int32_t shrinking;
    /*
     * Pfns newly owed for each page accepted in the round before; below 1 it
     * converges; a NaN, with which no comparison is true, if it is unknown.
     */
    double dirty_rate;
    /*
     * Suspended rounds: frames that the domain holds and no pfn has, as far as
     * is known; negative if more pfns have frames than it holds. INT64_MIN
     * while the guest runs, and until everything is settled.
     */
    int64_t unaccounted_frames;
};

/*
 * Totals of a handle, rounds that were given up among them. Times are not: it
 * is the host that makes the calls.
 */
struct p2mt_totals {
    uint32_t size; /* sizeof(struct p2mt_totals) */
    uint32_t zero;
    uint64_t rounds;          /* ended */
    uint64_t rounds_given_up; /* ended by an error, begun again, or cancelled */
    uint64_t pages_accepted;
    uint64_t pages_deferred;  /* each time that one was */
    uint64_t entries_changed;
    uint64_t entries_beyond_log_dirty;
    uint64_t owed;            /* pfns, now */
    uint64_t shadow_bytes;    /* memory of the copy of the p2m */
};

/* What is known of a pfn. */
struct p2mt_pfn_state {
    uint32_t size;   /* sizeof(struct p2mt_pfn_state) */
    uint32_t causes; /* why it is owed; 0 if it is not */
    /* why it was deferred in the last round, P2MT_DEFER_*; 0 if it was not */
    uint32_t defer;
    uint32_t zero;
    /*
     * under which it was last settled, as the guest wrote it; P2MT_NONE if it
     * was not, or was invalid
     */
    uint64_t entry;
};

/* An error. Numbers that it does not name are P2MT_NONE. */
struct p2mt_error {
    uint32_t size; /* sizeof(struct p2mt_error) */
    int32_t code;  /* P2MT_E_*, or P2MT_OK: there was none */
    /*
     * what a callback or an answer said: an errno or P2MT_NOT_OWNED; 0 if none
     * did
     */
    int32_t errnum;
    int32_t level; /* of the p2m or of a page table; -1 if none */
    uint64_t pfn;
    uint64_t mfn;
    /* what happened, with the causes behind it; ends with a 0 */
    char text[488];
};

struct p2mt; /* a migration */

/* --- functions ------------------------------------------------------------ */

/* The library's version, as P2MT_VERSION. */
uint32_t p2mt_version(void);

/*
 * What a code means, in a few words: a constant, also for codes that are
 * unknown.
 */
const char *p2mt_strerror(int code);

/*
 * Creates a handle. Both structures are copied. Log-dirty has to be on, and to
 * have been empty when it was switched on, before the first p2mt_scan; it stays
 * the host's to switch off. `error` may be NULL, otherwise it is written on
 * failure (unless it is its size that is wrong): there is no handle then that
 * could keep it. E_THREADS, E_ENVIRONMENT.
 */
int p2mt_create(const struct p2mt_config *config, const struct p2mt_host *host,
                struct p2mt_error *error, struct p2mt **handle);

/*
 * Cancels if need be, waits for its threads, and frees. NULL is fine. OK: it is
 * gone. E_BUSY, E_FORKED (in a child nothing is unmapped): it is not. No other
 * code. After E_PANIC frames are unmapped, but memory and threads stay.
 */
int p2mt_destroy(struct p2mt *handle);

/*
 * The last error of a handle, also of one that met E_PANIC; P2MT_OK in
 * error->code if there was none since it was created. Calls that fail with
 * E_BUSY or E_FORKED, and those on NULL, leave none.
 */
int p2mt_last_error(const struct p2mt *handle, struct p2mt_error *error);

/*
 * Begins a round and lends a buffer for the log, which the host then reads and
 * clears in Xen (XEN_DOMCTL_SHADOW_OP_CLEAN) for all of buffer->pfns, and
 * writes there, by itself or by p2mt_feed. The order matters: this call, CLEAN,
 * p2mt_scan. If CLEAN fails, p2mt_scan with `read` 0 makes all of it uncertain.
 * A round that was not ended is given up: what it did not settle is owed, and
 * if its log was not handed over, everything, which is an uncertainty. E_HOST,
 * E_ORDER (after the end).
 */
int p2mt_begin(struct p2mt *handle, uint32_t stage,
               struct p2mt_log_buffer *buffer);

/*
 * Adds bits to the log buffer, `pfns` of them from pfn `first` on, both
 * multiples of 64. What lies past its end is dropped. E_ORDER (no buffer is
 * lent).
 */
int p2mt_feed(struct p2mt *handle, uint64_t first, const uint64_t *words,
              uint64_t pfns);

/*
 * Takes the log, of which the pfns below `read` were read, and finds what is
 * owed. What was not read is uncertain, and owed, to the pfn; bits that were
 * written past `read` all the same are owed as what they are. `report` may be
 * NULL: what was found so far. E_HOST, E_WIDTH (until a first walk is made),
 * E_ROOTS, E_STRUCTURE, E_P2M_SIZE, E_ORDER.
 */
int p2mt_scan(struct p2mt *handle, uint64_t read, struct p2mt_report *report);

/*
 * Takes the next pages. *count is 0 when there are none: of a suspended guest
 * everything is settled then. page_size: sizeof(struct p2mt_page). capacity: at
 * least P2MT_BATCH_MAX; no more are taken at once. *flags: what the host has to
 * do before it sends them, P2MT_DO_*. E_HOST, E_ENTRY, E_TABLE, E_STRUCTURE,
 * E_ROOTS, E_P2M_SIZE, E_TOO_MANY_DEFERRED, E_UNACCOUNTED: there are no pages
 * to be answered for, begin a round again. E_ORDER: the last pages have no
 * answer, or nothing was scanned.
 */
int p2mt_take(struct p2mt *handle, struct p2mt_page *pages, size_t page_size,
              size_t capacity, size_t *count, uint32_t *flags);
#define P2MT_BATCH_MAX 1024
/*
 * The p2m's structure was walked anew: drop every mapping of it that the host
 * holds by a walk of its own. Set from the first p2mt_take after the walk until
 * a round ended well.
 */
#define P2MT_DO_REMAP (1u << 0)
/*
 * The frame list has to be sent to the destination, also if there are no pages:
 * p2mt_frame_list, p2mt_frame_list_sent.
 */
#define P2MT_DO_FRAME_LIST (1u << 1)

/*
 * Replaces frames by pfns in the page table that is number `index` of the pages
 * taken last: 512 words, read by the host. P2MT_E_TABLE: not now, answer
 * P2MT_DEFER_TABLE; *fault, which may be NULL, is written then, and the words
 * are half done. In mode P2MT_FULL a page table is accepted only after this
 * succeeded. E_TABLE. An index that is no page table's is E_ARGUMENT.
 */
int p2mt_normalise(struct p2mt *handle, size_t index, uint64_t *words,
                   struct p2mt_table_fault *fault);

/*
 * Answers the pages taken last, in order; `count` is theirs, all of them.
 * answer_size: sizeof(struct p2mt_page_answer). E_PAGE (P2MT_FAILED among them:
 * the others are written down), E_TOO_MANY_DEFERRED, E_ORDER (there are no such
 * pages; the frame list was not sent; a page table was not normalised).
 * E_ARGUMENT, E_SIZE, E_ORDER: nothing is written down.
 */
int p2mt_answer(struct p2mt *handle, const struct p2mt_page_answer *answers,
                size_t answer_size, size_t count);

/*
 * The same, if all of them are accepted; `count` as p2mt_take gave it, so that
 * a mistake is noticed.
 */
int p2mt_accept(struct p2mt *handle, size_t count);

/*
 * The frame list: for each leaf of the p2m the pfn of its frame, or P2MT_NONE.
 * *count is the number of leaves; if it is more than `capacity`, nothing else
 * is written. *pfn_count: pfns that it covers. *serial: of this list, from 1
 * on. May be asked for at any time once a round was scanned, until the end.
 * E_ORDER.
 */
int p2mt_frame_list(struct p2mt *handle, uint64_t *leaves, size_t capacity,
                    size_t *count, uint64_t *pfn_count, uint64_t *serial);

/*
 * The list of this serial is on its way to the destination. Until this is said
 * of the present one, P2MT_DO_FRAME_LIST comes with every p2mt_take, no pages
 * can be answered for, and no suspended round ended. E_ORDER: it is not the
 * present one any more, read it again.
 */
int p2mt_frame_list_sent(struct p2mt *handle, uint64_t serial);

/*
 * Hands back pfns that were accepted and then lost on the way: they are owed at
 * the latest from the next p2mt_begin on. A suspended round can't be ended
 * while any wait for that: begin it again. E_ARGUMENT: one of them was never
 * taken, and none was handed back. E_ORDER after the end.
 */
int p2mt_return(struct p2mt *handle, const uint64_t *pfns, size_t count);

/*
 * Suspended rounds, once p2mt_take has no more: pfns without a frame at the
 * source for which the destination may hold one, ascending, from `from` on.
 * *count: how many were written; 0 ends it. E_ORDER.
 */
int p2mt_gone(struct p2mt *handle, uint64_t from, uint64_t *pfns,
              size_t capacity, size_t *count);

/*
 * PTEs that are cleared in page tables as they were accepted last, ascending by
 * pfn; one of them that is cleared twice is there twice. pte_size:
 * sizeof(struct p2mt_cleared_pte). *count: how many there are; if that is more
 * than `capacity`, nothing else is written.
 */
int p2mt_cleared_ptes(struct p2mt *handle, struct p2mt_cleared_pte *ptes,
                      size_t pte_size, size_t capacity, size_t *count);

/*
 * Ends the round: the destination has what was accepted, and of a suspended
 * guest also the frame list and the pfns gone. A live round may be ended before
 * p2mt_take has no more. After P2MT_FINAL everything is unmapped. `report` may
 * be NULL. E_UNCERTAIN: the round is over, begin again. E_ORDER: it goes on.
 */
int p2mt_end(struct p2mt *handle, struct p2mt_report *report);

/*
 * Ends the migration at any point: everything is unmapped. Log-dirty is the
 * host's.
 */
int p2mt_cancel(struct p2mt *handle);

/*
 * How much is held against m2p and owners from now on; between rounds it is
 * clear from when: P2MT_VERIFY_*.
 */
int p2mt_verify(struct p2mt *handle, uint32_t verify);

/* Totals. */
int p2mt_stats(struct p2mt *handle, struct p2mt_totals *totals);

/* What is known of a pfn, of any: one past the p2m is owed to nobody. */
int p2mt_why(struct p2mt *handle, uint64_t pfn, struct p2mt_pfn_state *state);

#ifdef __cplusplus
}
#endif

#endif
