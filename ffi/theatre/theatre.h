/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A simulated Xen with one PV guest, and a receiver with an oracle: what stands for the hypervisor and for the destination
 * in the tests of libp2mtrack. Not a part of that library, and not installed.
 *
 * Every call is a moment at which the guest may run first. Functions return 0, a negative errno, or THEATRE_NOT_OWNED. One
 * thread.
 */
#ifndef THEATRE_H
#define THEATRE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The frame is not the domain's. */
#define THEATRE_NOT_OWNED (-4096)

struct theatre;

/* The names of the scenarios: `index` from 0 on, NULL at the end. A hostile one may end in an error. */
const char *theatre_scenario(size_t index);
int theatre_is_hostile(const char *scenario);

/* A guest of a scenario and a seed. NULL: no such scenario. `threads`: those of the tracker. `width`: 32 or 64 bits. */
struct theatre *theatre_new(const char *scenario, uint64_t seed, uint64_t guest_bytes, uint32_t threads, uint32_t width);
void theatre_free(struct theatre *theatre);

/* --- the guest's life --- */
uint32_t theatre_checkpoints(const struct theatre *theatre);
int theatre_wants_suspend(const struct theatre *theatre);
void theatre_suspend(struct theatre *theatre);
void theatre_resume(struct theatre *theatre);

/* --- Xen --- */
uint64_t theatre_m2p_frames(const struct theatre *theatre);
const uint64_t *theatre_m2p(const struct theatre *theatre); /* all ones: no pfn */
uint64_t theatre_compat_m2p(const struct theatre *theatre); /* a frame of Xen's own, past those that guests may name */
int theatre_domain_frames(struct theatre *theatre, uint64_t *frames);
/* max_pfn, frame list list, cr3, vaddr, generation */
int theatre_roots(struct theatre *theatre, uint64_t roots[5]);
int theatre_read(struct theatre *theatre, uint64_t mfn, uint64_t *words);
int theatre_map(struct theatre *theatre, const uint64_t *mfns, size_t count, const void **addresses, int32_t *errors);
int theatre_unmap(struct theatre *theatre, const void *const *addresses, size_t count);
int theatre_types(struct theatre *theatre, const uint64_t *mfns, size_t count, uint32_t *types);
int theatre_unlogged(struct theatre *theatre, uint64_t *pfns, size_t capacity, size_t *count);
int theatre_accepts_transfer(struct theatre *theatre, int32_t *accepts);
/* What the transfer entries of the grant table name: a pfn, or with bit 63 the mfn of a frame that came. *count: how many there
 * are, of which as many as fit are written. */
int theatre_transfers(struct theatre *theatre, uint64_t *names, size_t capacity, size_t *count);
int theatre_log_on(struct theatre *theatre);
int theatre_log_off(struct theatre *theatre);
/* CLEAN of the first `pfns` pfns, a multiple of 32,768. */
int theatre_clean(struct theatre *theatre, uint64_t *words, uint64_t pfns, uint64_t *read);

/* --- the way to the destination --- */
/* Reads a page: of a data page what stands for its bytes, of a page table its 512 words. */
int theatre_read_page(struct theatre *theatre, uint64_t mfn, uint32_t type, uint64_t *content, uint64_t *words);
/* Hands it to the receiver; a page table's words with pfns in place of frames. */
int theatre_send_page(struct theatre *theatre, uint64_t pfn, uint32_t type, uint64_t content, const uint64_t *words);
int theatre_send_frame_list(struct theatre *theatre, const uint64_t *leaves, size_t count, uint64_t pfn_count);
int theatre_send_gone(struct theatre *theatre, const uint64_t *pfns, size_t count);
int theatre_confirm(struct theatre *theatre);

/* --- a saver's own mapping of the p2m, as Xen's toolstack makes it --- */
int theatre_p2m_map(struct theatre *theatre); /* drops the one before */
void theatre_p2m_unmap(struct theatre *theatre);
/* The frame that the live entry names, all ones if none does. */
uint64_t theatre_p2m_frame(const struct theatre *theatre, uint64_t pfn);

/* --- the oracle --- */
/* 0 identical, 1 corrupt, 2 leaked; the guest has to be suspended. */
int theatre_judge(const struct theatre *theatre);
/* Says on stderr what differs. */
void theatre_explain(const struct theatre *theatre);
/* NULL, or what was left behind at the source; valid until theatre_free. The guest goes on from here. */
const char *theatre_harm(struct theatre *theatre);

#ifdef __cplusplus
}
#endif

#endif
