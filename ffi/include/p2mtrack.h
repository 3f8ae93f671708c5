/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * p2mtrack: dirty tracking for the live migration of Xen PV guests that change
 * their p2m while they run.
 *
 * The host, the program that uses this library, keeps its loop, its hypercalls
 * and its stream. It provides callbacks that read the guest's p2m, and calls
 * the functions of a handle round by round:
 *
 *     p2mt_create
 *     each round:  p2mt_begin   lends a buffer for log-dirty
 *                  p2mt_scan    takes the log, compares, finds what is owed
 *                  p2mt_take    the next pages to send; until there are none
 *                  p2mt_answer  the result of each page, or p2mt_accept
 *                  p2mt_frame_list, p2mt_frame_list_sent: if it changed
 *                  p2mt_gone    suspended rounds: pfns without a frame
 *                  p2mt_end     the destination has all of it; the report
 *     p2mt_cancel  at any point; p2mt_destroy
 *
 * Conventions, ownership, threads and versions: docs/abi.md. How a toolstack
 * adopts it: docs/adopt.md. In short:
 *
 * - Functions return P2MT_OK (0) or a negative code below; codes are never
 *   renumbered. The details of the last error belong to the handle
 *   (p2mt_last_error), not to the thread. Each function lists the codes that it
 *   may return besides E_ARGUMENT, E_SIZE, E_BUSY, E_FORKED and E_PANIC.
 * - Errnos are negative everywhere: from callbacks, in answers, in errors.
 * - Output arguments are written only on success, unless a function says
 *   otherwise.
 * - A structure that may grow starts with its size, set by the caller. A call
 *   with an array of elements that may grow takes the size of one element.
 *   Other structures never change: if a call needs more, a new call is added.
 *   A host may ignore bits and numbers that it does not know.
 * - A handle is used by one thread at a time, any thread. Callbacks are called
 *   on the thread of the call that needs them, and must not call the handle.
 * - Frames have 4 KiB; pfns and mfns are frame numbers. In a bitmap pfn n is
 *   bit n % 64 of word n / 64, in the host's byte order, like Xen's log-dirty
 *   bitmap on a little-endian host.
 * - The host must report what a sender cannot see, otherwise it is lost
 *   (README, "Limits"; docs/adopt.md): writers without a log-dirty mark
 *   (p2mt_host.unlogged), and frames that arrived by a grant transfer
 *   (accepts_transfer, transfers). A frame that the guest got from Xen and
 *   never wrote has no contents to preserve.
 * - Nothing is global: the library has no thread, allocator, signal handler or
 *   output of its own outside of a handle. A child process cannot use a handle
 *   of its parent.
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
 * `read` only cause an uncertainty while the guest runs; in a suspended round
 * they become E_ENTRY or E_STRUCTURE, with the same errnum.
 */
#define P2MT_E_HOST (-5)
/*
 * A structure is shorter than its first version, or has bytes set that this
 * library does not know.
 */
#define P2MT_E_SIZE (-7)
/* The handle was created by another process. */
#define P2MT_E_FORKED (-10)
/* The engine's threads can't be started. */
#define P2MT_E_THREADS (-11)
/*
 * The handle is in use: by another thread, or by the call that runs this
 * callback.
 */
#define P2MT_E_BUSY (-16)
/* An argument is NULL, out of range, or not aligned. */
#define P2MT_E_ARGUMENT (-22)
/*
 * An environment variable (P2MTRACK_KERNEL, P2MTRACK_SHADOW) asks for something
 * that is not available.
 */
#define P2MT_E_ENVIRONMENT (-38)
/*
 * p2mt_end: an uncertainty of one kind lasted for more rounds in a row than
 * p2mt_config.uncertain_rounds_max. If the kind is leaf-unmapped, the error
 * names the first such leaf. If the p2m can't be followed for that long,
 * p2mt_scan or p2mt_take return P2MT_E_ROOTS, P2MT_E_STRUCTURE or
 * P2MT_E_P2M_SIZE instead, which name the cause.
 */
#define P2MT_E_UNCERTAIN (-62)
/* The call is not allowed in this state. Nothing changed. */
#define P2MT_E_ORDER (-71)
/* The host could not send a page: it answered P2MT_FAILED. */
#define P2MT_E_PAGE (-72)
/* The roots of the p2m can't be followed. */
#define P2MT_E_ROOTS (-73)
/* A frame of the p2m's structure can't be used. */
#define P2MT_E_STRUCTURE (-74)
/* The p2m covers more pfns than the domain's number of frames can justify. */
#define P2MT_E_P2M_SIZE (-75)
/*
 * More pfns are deferred, or were sent against the m2p, than the domain holds
 * frames.
 */
#define P2MT_E_TOO_MANY_DEFERRED (-76)
/*
 * A suspended round can't settle a pfn; or, in any round, the frame of a pfn is
 * broken.
 */
#define P2MT_E_ENTRY (-77)
/* A suspended round can't normalise a page table. */
#define P2MT_E_TABLE (-78)
/*
 * The guest does not have the width p2mt_config.width: its roots, or the start
 * of its p2m, show this.
 */
#define P2MT_E_WIDTH (-79)
/*
 * At the end of a suspended round the number of frames that the domain holds
 * differs from the number that its pfns have, by more than in real guests.
 */
#define P2MT_E_UNACCOUNTED (-80)
/*
 * The library has a defect, and this handle hit it. Every later call returns
 * this, except p2mt_last_error and p2mt_destroy.
 */
#define P2MT_E_PANIC (-131)

/*
 * Used in place of an errno: the frame does not belong to the domain (now). No
 * errno has this number. If a frame has no owner, belongs to another domain or
 * to Xen, Linux's privcmd returns EINVAL, EBUSY or EPERM for that frame alone:
 * the host replaces these three by P2MT_NOT_OWNED. The errno of a whole call,
 * and any other errno of one frame, stays an errno.
 */
#define P2MT_NOT_OWNED (-4096)

/* No pfn, no mfn, an invalid entry. */
#define P2MT_NONE UINT64_MAX

/* --- the host's side ------------------------------------------------------ */

/* The fields of shared_info.arch that say where the p2m is. */
struct p2mt_roots {
    /* set by the library: the host writes no field past it */
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
    const void *const *addresses; /* as `map` returned them */
    size_t count;
};
struct p2mt_types_call {
    const uint64_t *mfns;
    size_t count;    /* at most 1024 */
    /*
     * out: bits 28 to 31 as from XEN_DOMCTL_getpageframeinfo3; the others are
     * ignored
     */
    uint32_t *types;
};
struct p2mt_unlogged_call {
    uint64_t *pfns; /* out */
    size_t capacity;
    /*
     * out: number of pfns; if more than capacity, the callback is called again
     * with a larger capacity
     */
    size_t *count;
};
struct p2mt_accepts_transfer_call {
    /*
     * out: not 0 if an entry of the grant table is GTF_accept_transfer, now or
     * at any time since the last call. A host that can only read the table
     * reports what it has now: an offer that is made, used and withdrawn
     * between two reads is lost.
     */
    int32_t *accepts;
};
struct p2mt_transfers_call {
    /*
     * out: the frame field of each transfer entry of the grant table; see
     * P2MT_TRANSFER_CAME. If accepts_transfer returned not 0 and there is no
     * name, any pfn may have got a frame: a suspended round owes everything.
     */
    uint64_t *names;
    size_t capacity;
    /*
     * out: number of names; if more than capacity, the callback is called again
     * with a larger capacity
     */
    size_t *count;
};
struct p2mt_log_call {
    uint32_t level;   /* P2MT_LOG_* */
    const char *text; /* valid until the callback returns */
};

/*
 * Or-ed to the name of a completed entry (GTF_transfer_completed): the name is
 * the mfn of the frame that arrived. Of any other entry it is the pfn that is
 * to get a frame. An entry that is committed but not completed may have either:
 * report it twice, with and without this bit.
 */
#define P2MT_TRANSFER_CAME (UINT64_C(1) << 63)

#define P2MT_LOG_ERROR 1
#define P2MT_LOG_WARNING 2
#define P2MT_LOG_INFO 3

/*
 * The host's callbacks. Each takes `user` and a pointer to its arguments, which
 * are valid until it returns, and returns 0 or a negative errno. All are
 * required except `log` and `transfers`. Frame numbers may have any value: the
 * guest writes them. If `map` fails as a whole, the library unmaps what `map`
 * wrote as mapped. Failures of `map`, `read`, `unmap` and `types` are reported
 * to the log, one with the errno of the last one only once a round;
 * P2MT_NOT_OWNED is not. All threads of the handle read the memory at an
 * address from `map` until `unmap`; the guest may write it.
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
     * Pfns whose frames are written without a log-dirty mark. Called in
     * suspended rounds.
     */
    int (*unlogged)(void *user, const struct p2mt_unlogged_call *call);
    /* Called twice a round, before and after CLEAN. */
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
     * first frame of the compat m2p: required for 32-bit guests, otherwise 0 or
     * P2MT_NONE
     */
    uint64_t compat_m2p_mfn;
    /*
     * What the transfer entries of the grant table name. Called after each call
     * of accepts_transfer. May be NULL: then it is unknown which pfns may have
     * got a frame, and each suspended round sends the whole guest while there
     * are offers.
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

/* How much is checked against the m2p, and against the owners of frames. */
/*
 * what changed, and in a suspended round every entry of a dirty leaf: relies on
 * the guest to write the entry of a frame that it gives away
 */
#define P2MT_VERIFY_DIRTY 0
/*
 * every entry and the owner of its frame, in every round: does not rely on
 * writes by the guest
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
 * tables with p2mt_normalise.
 */
#define P2MT_FULL 0
/*
 * mode: the host sends by the entries that it is given, and normalises page
 * tables with its own mapping of the p2m. A frame on which p2m and m2p agree
 * may still belong to another domain: the host queries the type of each frame
 * that a table names (docs/adopt.md, "Rules of a normaliser").
 */
#define P2MT_PASSIVE 1
/*
 * mode: the host sends and normalises with its own live mapping of the p2m; the
 * same rule holds for its page tables.
 */
#define P2MT_HOST_READS_P2M 2

struct p2mt_config {
    uint32_t size;    /* sizeof(struct p2mt_config) */
    uint32_t width;   /* P2MT_WIDTH_* */
    uint32_t mode;    /* P2MT_FULL, P2MT_PASSIVE, P2MT_HOST_READS_P2M */
    uint32_t threads; /* that compare; 0 and 1: only the caller's */
    uint32_t kernel;  /* P2MT_KERNEL_* */
    uint32_t verify;  /* P2MT_VERIFY_* */
    /* two pfns with one frame, in a suspended round: P2MT_ALIAS_* */
    uint32_t alias;
    /*
     * a table that names another domain's frame, in a suspended round:
     * P2MT_FOREIGN_PTE_*
     */
    uint32_t foreign_pte;
    /*
     * rounds in a row for which an uncertainty of one kind is tolerated while
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
#define P2MT_CHECKPOINT 1 /* suspended, and will resume (Remus) */
#define P2MT_FINAL 2      /* suspended for good */

/*
 * A buffer for log-dirty, owned by the library. Valid until p2mt_scan,
 * p2mt_cancel or the next p2mt_begin.
 */
struct p2mt_log_buffer {
    uint64_t *words; /* zeroes; NULL if pfns is 0 */
    /* a multiple of 32,768; 0: log-dirty need not be read in this round */
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
    /* the p2m entry that names it; recorded if the page is accepted */
    uint64_t entry;
    /* as p2mt_types_call.types: level and pin of a page table, 0 for data */
    uint32_t type;
    uint32_t causes;
};

/* on its way; its bytes were read after p2mt_take */
#define P2MT_ACCEPTED 0
#define P2MT_DEFERRED 1 /* not sent now; still owed */
#define P2MT_FAILED 2   /* can't be sent: the round ends with P2MT_E_PAGE */

/* Why a page was deferred. */
#define P2MT_DEFER_M2P 1       /* p2m and m2p disagree */
/* the entry names a frame that is not the domain's */
#define P2MT_DEFER_NOT_OWNED 2
#define P2MT_DEFER_LEAF 3      /* the leaf of its entry is not mapped */
#define P2MT_DEFER_QUERY 4     /* the type query failed */
#define P2MT_DEFER_MAP 5       /* the frame can't be mapped (answer.errnum) */
#define P2MT_DEFER_TABLE 6     /* the page table can't be normalised now */
#define P2MT_DEFER_NO_ANSWER 7 /* no answer from the destination */

/* The answer for a page. */
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
 * A PTE that was made not present: P2MT_FOREIGN_PTE_CLEAR. An element of an
 * array; it may grow.
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
    uint64_t structure_retries; /* of these, repeated */
    uint64_t pages_owed; /* when sending began */
    uint64_t pages_accepted; /* answered P2MT_ACCEPTED */
    uint64_t pages_tables; /* of these, page tables */
    uint64_t pages_unpopulated; /* settled without a page: no frame */
    uint64_t pages_deferred_m2p; /* deferred: p2m and m2p disagree */
    /* deferred: not the domain's, or not mapped */
    uint64_t pages_deferred_frame;
    uint64_t pages_deferred_table; /* deferred: page tables */
    /* deferred: leaf not mapped, query failed, or no answer */
    uint64_t pages_deferred_uncertain;
    uint64_t pages_moved; /* frames that moved to another pfn */
    uint64_t pages_returned; /* by p2mt_return */
    uint64_t pages_left; /* owed when the round ended */
    uint64_t settled_gone; /* suspended rounds: pfns reported as gone */
    uint64_t settled_foreign; /* entries with frames not the domain's */
    /* sent although the m2p names another pfn or none */
    uint64_t settled_m2p_stale;
    uint64_t settled_aliases; /* sent as copies of another pfn's frame */
    uint64_t settled_cleared_ptes; /* PTEs made not present, by policy */
    uint64_t settled_unlogged; /* sent for unlogged writers */
    uint64_t uncertain; /* of all kinds; the log callback names them */
    /* the structure could not be followed: nothing was compared */
    int32_t p2m_unreadable;
    /*
     * The estimate of convergence, from p2mt_scan on. Unknown until a round has
     * ended, after one that was given up, and when ranges are owed because of
     * an uncertainty.
     */
    /* fewer pfns are owed than a round ago: 1, 0, or -1 if unknown */
    int32_t shrinking;
    /*
     * Pfns newly owed for each page accepted in the round before. Below 1 the
     * migration converges. NaN if unknown: `dirty_rate < 1` is false then.
     */
    double dirty_rate;
    /*
     * Suspended rounds: frames that the domain holds and that no pfn has, as
     * far as is known; negative if more pfns have frames than it holds.
     * INT64_MIN while the guest runs, and until everything is settled.
     */
    int64_t unaccounted_frames;
};

/*
 * Totals of a handle, including rounds that were given up. There are no times:
 * the host makes the calls and can measure them.
 */
struct p2mt_totals {
    uint32_t size; /* sizeof(struct p2mt_totals) */
    uint32_t zero;
    uint64_t rounds;          /* ended */
    uint64_t rounds_given_up; /* ended by an error, begun again, or cancelled */
    uint64_t pages_accepted;
    uint64_t pages_deferred;  /* each deferral counts */
    uint64_t entries_changed;
    uint64_t entries_beyond_log_dirty;
    uint64_t owed;            /* pfns owed now */
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
     * entry under which the pfn was last settled, as the guest wrote it;
     * P2MT_NONE if it was never settled, or its entry was invalid
     */
    uint64_t entry;
};

/* An error. pfn and mfn are P2MT_NONE if it names none. */
struct p2mt_error {
    uint32_t size; /* sizeof(struct p2mt_error) */
    int32_t code;  /* P2MT_E_*, or P2MT_OK: there was none */
    /*
     * from a callback or an answer: an errno or P2MT_NOT_OWNED; 0 if there is
     * none
     */
    int32_t errnum;
    int32_t level; /* of the p2m or of a page table; -1 if none */
    uint64_t pfn;
    uint64_t mfn;
    /* what happened, and its causes; ends with a 0 */
    char text[488];
};

struct p2mt; /* a migration */

/* --- functions ------------------------------------------------------------ */

/* The library's version, as P2MT_VERSION. */
uint32_t p2mt_version(void);

/*
 * What a code means, in a few words: a constant string, also for unknown codes.
 */
const char *p2mt_strerror(int code);

/*
 * Creates a handle. Both structures are copied. Before the first p2mt_scan
 * log-dirty has to be on; it has to be empty when it is switched on. The host
 * switches it off. `error` may be NULL, otherwise it is written on failure
 * (unless its own size is wrong), because there is no handle to keep the error.
 * E_THREADS, E_ENVIRONMENT.
 */
int p2mt_create(const struct p2mt_config *config, const struct p2mt_host *host,
                struct p2mt_error *error, struct p2mt **handle);

/*
 * Cancels if needed, waits for the handle's threads, and frees the handle. NULL
 * is allowed. OK: it is freed. E_BUSY, E_FORKED (in a child nothing is
 * unmapped): it is not. There is no other code. After E_PANIC frames are
 * unmapped, but memory and threads stay.
 */
int p2mt_destroy(struct p2mt *handle);

/*
 * The last error of a handle, also after E_PANIC; error->code is P2MT_OK if
 * there was none since the handle was created. Calls that fail with E_BUSY or
 * E_FORKED, and calls on NULL, record no error.
 */
int p2mt_last_error(const struct p2mt *handle, struct p2mt_error *error);

/*
 * Begins a round and lends a buffer for the log. The host then reads and clears
 * the log in Xen (XEN_DOMCTL_SHADOW_OP_CLEAN) for all of buffer->pfns, and
 * writes it to the buffer, directly or with p2mt_feed. The order matters:
 * p2mt_begin, CLEAN, p2mt_scan. If CLEAN fails, p2mt_scan with `read` 0 makes
 * the whole log uncertain. A round that was not ended is given up: what it did
 * not settle is owed. If p2mt_scan did not take its log, everything is owed, as
 * an uncertainty. E_HOST, E_ORDER (after the end).
 */
int p2mt_begin(struct p2mt *handle, uint32_t stage,
               struct p2mt_log_buffer *buffer);

/*
 * Or-s bits into the log buffer, `pfns` of them from pfn `first` on, both
 * multiples of 64. Bits past the end of the buffer are dropped. E_ORDER (no
 * buffer is lent).
 */
int p2mt_feed(struct p2mt *handle, uint64_t first, const uint64_t *words,
              uint64_t pfns);

/*
 * Takes the log, which was read for the pfns below `read`, and finds what is
 * owed. Exactly the pfns that were not read are uncertain, and owed; bits set
 * in the buffer from `read` on are owed as log-dirty, too. `report` may be
 * NULL; it gets what was found so far. E_HOST, E_WIDTH (until a first walk is
 * made), E_ROOTS, E_STRUCTURE, E_P2M_SIZE, E_ORDER.
 */
int p2mt_scan(struct p2mt *handle, uint64_t read, struct p2mt_report *report);

/*
 * Takes the next pages. *count is 0 when there are none: in a suspended round
 * everything is settled then. page_size: sizeof(struct p2mt_page). capacity: at
 * least P2MT_BATCH_MAX; no more are taken at once. *flags: what the host has to
 * do before it sends the pages, P2MT_DO_*. E_HOST, E_ENTRY, E_TABLE,
 * E_STRUCTURE, E_ROOTS, E_P2M_SIZE, E_TOO_MANY_DEFERRED, E_UNACCOUNTED: there
 * are no pages to answer, begin the round again. E_ORDER: the last pages are
 * not answered, or no round was scanned.
 */
int p2mt_take(struct p2mt *handle, struct p2mt_page *pages, size_t page_size,
              size_t capacity, size_t *count, uint32_t *flags);
#define P2MT_BATCH_MAX 1024
/*
 * The p2m's structure was walked again: the host drops every mapping that it
 * made by its own walk. Set from the first p2mt_take after the walk until a
 * round ends without an error.
 */
#define P2MT_DO_REMAP (1u << 0)
/*
 * The host has to send the frame list to the destination, even if there are no
 * pages: p2mt_frame_list, p2mt_frame_list_sent.
 */
#define P2MT_DO_FRAME_LIST (1u << 1)

/*
 * Replaces frames by pfns in a page table: page `index` of the last p2mt_take,
 * as 512 words that the host read. E_TABLE: it can't be done now, answer
 * P2MT_DEFER_TABLE; *fault, which may be NULL, is written, and the words are
 * partly converted. E_ARGUMENT: that page is not a page table. In mode
 * P2MT_FULL a page table can be accepted only after this succeeded.
 */
int p2mt_normalise(struct p2mt *handle, size_t index, uint64_t *words,
                   struct p2mt_table_fault *fault);

/*
 * Answers the pages of the last p2mt_take, in order and all of them: `count` is
 * their number. answer_size: sizeof(struct p2mt_page_answer). E_PAGE (an answer
 * is P2MT_FAILED; the others are recorded), E_TOO_MANY_DEFERRED, E_ORDER (there
 * are no pages to answer; the frame list was not sent; a page table was not
 * normalised). E_ARGUMENT, E_SIZE, E_ORDER: nothing is recorded.
 */
int p2mt_answer(struct p2mt *handle, const struct p2mt_page_answer *answers,
                size_t answer_size, size_t count);

/*
 * Answers that all of them are accepted. `count` as from p2mt_take, so that a
 * mistake is noticed.
 */
int p2mt_accept(struct p2mt *handle, size_t count);

/*
 * The frame list: for each leaf of the p2m the pfn of its frame, or P2MT_NONE.
 * *count: the number of leaves; if it is more than `capacity`, nothing else is
 * written. *pfn_count: pfns that the list covers. *serial: number of this list,
 * from 1 on. May be called at any time once a round was scanned, until the end.
 * E_ORDER.
 */
int p2mt_frame_list(struct p2mt *handle, uint64_t *leaves, size_t capacity,
                    size_t *count, uint64_t *pfn_count, uint64_t *serial);

/*
 * Reports that the list of this serial is on its way to the destination. Until
 * the host reports the current list, every p2mt_take sets P2MT_DO_FRAME_LIST,
 * no pages can be answered, and no suspended round can be ended. E_ORDER: it is
 * no longer the current list, read it again.
 */
int p2mt_frame_list_sent(struct p2mt *handle, uint64_t serial);

/*
 * Returns pfns that were accepted and then lost on the way: they are owed from
 * the next p2mt_begin on, or earlier. A suspended round can't be ended while
 * any of them wait for that: begin it again. E_ARGUMENT: one of them was never
 * taken, and none was returned. E_ORDER after the end.
 */
int p2mt_return(struct p2mt *handle, const uint64_t *pfns, size_t count);

/*
 * Suspended rounds, after p2mt_take has no more pages: pfns that have no frame
 * at the source and may have one at the destination, ascending, from `from` on.
 * *count: number of pfns written; 0 at the end. E_ORDER.
 */
int p2mt_gone(struct p2mt *handle, uint64_t from, uint64_t *pfns,
              size_t capacity, size_t *count);

/*
 * PTEs that are cleared in page tables as they were last accepted, ascending by
 * pfn; a frame that is cleared twice is there twice. pte_size: sizeof(struct
 * p2mt_cleared_pte). *count: number of PTEs; if it is more than `capacity`,
 * nothing else is written.
 */
int p2mt_cleared_ptes(struct p2mt *handle, struct p2mt_cleared_pte *ptes,
                      size_t pte_size, size_t capacity, size_t *count);

/*
 * Ends the round: the destination has what was accepted, and in a suspended
 * round also the frame list and the pfns gone. A live round may be ended while
 * p2mt_take still has pages. After P2MT_FINAL everything is unmapped. `report`
 * may be NULL. E_UNCERTAIN: the round is over, begin again. E_ORDER: the round
 * goes on.
 */
int p2mt_end(struct p2mt *handle, struct p2mt_report *report);

/*
 * Ends the migration at any point: everything is unmapped. The host switches
 * log-dirty off.
 */
int p2mt_cancel(struct p2mt *handle);

/*
 * Sets how much is checked against m2p and owners from now on: P2MT_VERIFY_*.
 * Call it between rounds, so that it is clear which rounds it applies to.
 */
int p2mt_verify(struct p2mt *handle, uint32_t verify);

/* Totals. */
int p2mt_stats(struct p2mt *handle, struct p2mt_totals *totals);

/* What is known of a pfn. Any pfn is allowed: one past the p2m is not owed. */
int p2mt_why(struct p2mt *handle, uint64_t pfn, struct p2mt_pfn_state *state);

#ifdef __cplusplus
}
#endif

#endif
