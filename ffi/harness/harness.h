/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A simulated Xen with one PV guest, and a receiver with an oracle: the hypervisor and the
 * destination in the tests of libp2mtrack. Not a part of that library, and not installed.
 *
 * The guest may run before any call takes effect. Functions return 0, a negative errno, or
 * HARNESS_NOT_OWNED. One thread.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The frame is not the domain's. */
#define HARNESS_NOT_OWNED (-4096)

struct harness;

/* The names of the scenarios: `index` from 0 on, NULL at the end. Hostile ones may fail. */
const char *harness_scenario(size_t index);
int harness_is_hostile(const char *scenario);

/*
 * A guest for a scenario and a seed. NULL: no such scenario. `threads`: those of the tracker.
 * `width`: 32 or 64 bits.
 */
struct harness *harness_new(const char *scenario, uint64_t seed, uint64_t guest_bytes, uint32_t threads, uint32_t width);
void harness_free(struct harness *harness);

/* --- the guest's life --- */
uint32_t harness_checkpoints(const struct harness *harness);
int harness_wants_suspend(const struct harness *harness);
void harness_suspend(struct harness *harness);
void harness_resume(struct harness *harness);

/* --- Xen --- */
uint64_t harness_m2p_frames(const struct harness *harness);
const uint64_t *harness_m2p(const struct harness *harness); /* all ones: no pfn */
uint64_t harness_compat_m2p(const struct harness *harness); /* a frame of Xen's own, past those that guests may name */
int harness_domain_frames(struct harness *harness, uint64_t *frames);
/* max_pfn, frame list list, cr3, vaddr, generation */
int harness_roots(struct harness *harness, uint64_t roots[5]);
int harness_read(struct harness *harness, uint64_t mfn, uint64_t *words);
int harness_map(struct harness *harness, const uint64_t *mfns, size_t count, const void **addresses, int32_t *errors);
int harness_unmap(struct harness *harness, const void *const *addresses, size_t count);
int harness_types(struct harness *harness, const uint64_t *mfns, size_t count, uint32_t *types);
int harness_unlogged(struct harness *harness, uint64_t *pfns, size_t capacity, size_t *count);
int harness_accepts_transfer(struct harness *harness, int32_t *accepts);
/*
 * What the transfer entries of the grant table name: a pfn, or with bit 63 the mfn of a frame that
 * arrived. *count: number of names; as many as fit are written.
 */
int harness_transfers(struct harness *harness, uint64_t *names, size_t capacity, size_t *count);
int harness_log_on(struct harness *harness);
int harness_log_off(struct harness *harness);
/* CLEAN of the first `pfns` pfns, a multiple of 32,768. */
int harness_clean(struct harness *harness, uint64_t *words, uint64_t pfns, uint64_t *read);

/* --- the transport --- */
/* Reads a page: for data a number that stands for its bytes, for a page table its 512 words. */
int harness_read_page(struct harness *harness, uint64_t mfn, uint32_t type, uint64_t *content, uint64_t *words);
/* Sends it to the receiver; the words of a page table have pfns in place of frames. */
int harness_send_page(struct harness *harness, uint64_t pfn, uint32_t type, uint64_t content, const uint64_t *words);
int harness_send_frame_list(struct harness *harness, const uint64_t *leaves, size_t count, uint64_t pfn_count);
int harness_send_gone(struct harness *harness, const uint64_t *pfns, size_t count);
int harness_confirm(struct harness *harness);

/* --- a sender's own mapping of the p2m, as Xen's toolstack makes it --- */
int harness_p2m_map(struct harness *harness); /* drops the one before */
void harness_p2m_unmap(struct harness *harness);
/* The frame that the live entry names, all ones if none does. */
uint64_t harness_p2m_frame(const struct harness *harness, uint64_t pfn);

/* --- the oracle --- */
/* 0 identical, 1 corrupt, 2 leaked; the guest has to be suspended. */
int harness_judge(const struct harness *harness);
/* Prints the differences to stderr. */
void harness_explain(const struct harness *harness);
/* NULL, or what was left behind at the source; valid until harness_free. The guest runs on. */
const char *harness_harm(struct harness *harness);

#ifdef __cplusplus
}
#endif

#endif
