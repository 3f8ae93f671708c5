/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A sender like that of Xen's toolstack, with its own loop, policy, mapping of the p2m and
 * normalisation of page tables, that uses p2mtrack in passive mode. The lines marked (1) to (4) are
 * the changes. It (1) sends the pages of p2mt_take by the entries that come with them, (2) drops
 * its mapping of the p2m on P2MT_DO_REMAP, (3) defers what can't be sent now, and (4) queries the
 * owners of the frames that a page table names. docs/adopt.md has the same as a table.
 *
 *     passive [entries|reads [SCENARIO [SEEDS]]]    default: entries all 3
 *
 * `reads`: it sends by its own live mapping of the p2m, in mode P2MT_HOST_READS_P2M. Exit status as
 * of migrate.c.
 */
#include <stdlib.h>

#include "host.h"

#define GUEST_BYTES (32u << 20)
#define PASSES_MAX 5
#define FEW_PAGES 50
#define PRESENT 1u
#define SUPERPAGE (1u << 7)
#define PTE_FRAME UINT64_C(0x000ffffffffff000)

struct sender {
    struct harness *guest;
    struct p2mt *p2mt;
    int reads;
    int mapped;         /* its own mapping of the p2m is there */
    uint64_t pfn_count; /* as it was sent to the destination */
};

/* Whether a table names a frame of another domain: p2m and m2p do not show that. */
static int names_others(const struct sender *sender, const uint64_t *words)
{
    uint64_t mfns[512];
    uint32_t types[512];
    size_t count = 0, i;

    for (i = 0; i < 512; i++)
        if (words[i] & PRESENT)
            mfns[count++] = (words[i] & PTE_FRAME) >> 12;
    if (count && harness_types(sender->guest, mfns, count, types))
        return 1;
    for (i = 0; i < count; i++)
        if (types[i] >> 28 >= 0xd) /* BROKEN, XALLOC, XTAB */
            return 1;
    return 0;
}

/*
 * Upstream's normalisation: the m2p and its own mapping of the p2m must agree. harness_p2m_frame
 * leaves out the tags of entries: old kernels tag entries of their own frames.
 */
static int normalise(const struct sender *sender, uint32_t type, uint64_t *words)
{
    const uint64_t *m2p = harness_m2p(sender->guest);
    uint64_t frames = harness_m2p_frames(sender->guest), mfn, pfn;
    unsigned int level = type >> 28 & 7, slot;

    if (!sender->mapped)
        return -1;
    for (slot = 256; level == 4 && slot <= 271; slot++)
        words[slot] = 0; /* Xen's own */
    if (names_others(sender, words)) /* (4) */
        return -1;
    for (slot = 0; slot < 512; slot++) {
        if (!(words[slot] & PRESENT))
            continue;
        mfn = (words[slot] & PTE_FRAME) >> 12;
        pfn = mfn < frames ? m2p[mfn] : P2MT_NONE;
        if ((level > 1 && words[slot] & SUPERPAGE) || pfn >= sender->pfn_count ||
            harness_p2m_frame(sender->guest, pfn) != mfn)
            return -1;
        words[slot] = (words[slot] & ~PTE_FRAME) | pfn << 12;
    }
    return 0;
}

/* Sends a page and fills in its answer. Not 0: an error of the harness. */
static int send_page(struct sender *sender, const struct p2mt_page *page, struct p2mt_page_answer *answer)
{
    uint64_t mfn = page->mfn, content = 0, words[512]; /* (1) the entry that came with it */
    uint32_t type;
    int rc;

    memset(answer, 0, sizeof(*answer));
    if (sender->reads)
        mfn = sender->mapped ? harness_p2m_frame(sender->guest, page->pfn) : P2MT_NONE;
    rc = mfn == P2MT_NONE ? P2MT_NOT_OWNED : harness_types(sender->guest, &mfn, 1, &type);
    if (!rc && type >> 28 >= 0xd) /* BROKEN, XALLOC, XTAB */
        rc = P2MT_NOT_OWNED;
    if (!rc)
        rc = harness_read_page(sender->guest, mfn, type, &content, words);
    if (rc) { /* (3) */
        answer->verdict = P2MT_DEFERRED;
        answer->reason = P2MT_DEFER_MAP;
        answer->errnum = rc;
        return 0;
    }
    if (type && normalise(sender, type, words)) { /* (3) */
        answer->verdict = P2MT_DEFERRED;
        answer->reason = page->type ? P2MT_DEFER_TABLE : P2MT_DEFER_NO_ANSWER; /* it became a table just now */
        return 0;
    }
    return harness_send_page(sender->guest, page->pfn, type, content, words);
}

static int send_frame_list(struct sender *sender)
{
    size_t count;
    uint64_t *leaves, serial;
    int rc = p2mt_frame_list(sender->p2mt, NULL, 0, &count, &sender->pfn_count, &serial);

    if (rc)
        return rc;
    leaves = malloc((count ? count : 1) * sizeof(*leaves));
    rc = p2mt_frame_list(sender->p2mt, leaves, count, &count, &sender->pfn_count, &serial);
    if (!rc)
        rc = harness_send_frame_list(sender->guest, leaves, count, sender->pfn_count);
    free(leaves);
    return rc ? rc : p2mt_frame_list_sent(sender->p2mt, serial);
}

/* One pass; *sent: pages that it sent. */
static int pass(struct sender *sender, uint32_t stage, uint64_t *sent)
{
    static struct p2mt_page pages[P2MT_BATCH_MAX];
    static struct p2mt_page_answer answers[P2MT_BATCH_MAX];
    struct p2mt_log_buffer buffer;
    struct p2mt_report report;
    uint64_t read = 0, gone[256], from = 0;
    size_t count, i;
    uint32_t todo;
    int rc = p2mt_begin(sender->p2mt, stage, &buffer);

    if (!rc && buffer.pfns)
        rc = harness_clean(sender->guest, buffer.words, buffer.pfns, &read);
    if (!rc)
        rc = p2mt_scan(sender->p2mt, read, NULL);
    do {
        if (!rc)
            rc = p2mt_take(sender->p2mt, pages, sizeof(*pages), P2MT_BATCH_MAX, &count, &todo); /* (1) */
        if (rc)
            return rc;
        if (todo & P2MT_DO_REMAP || !sender->mapped) { /* (2); while the guest runs this may fail */
            sender->mapped = !harness_p2m_map(sender->guest);
            if (!sender->mapped && stage != P2MT_LIVE)
                return -5;
        }
        if (todo & P2MT_DO_FRAME_LIST)
            rc = send_frame_list(sender);
        for (i = 0; !rc && i < count; i++)
            rc = send_page(sender, &pages[i], &answers[i]);
        if (!rc && count)
            rc = p2mt_answer(sender->p2mt, answers, sizeof(*answers), count);
    } while (!rc && count);
    while (!rc && stage != P2MT_LIVE && !(rc = p2mt_gone(sender->p2mt, from, gone, 256, &count)) && count) {
        rc = harness_send_gone(sender->guest, gone, count);
        from = gone[count - 1] + 1;
    }
    report.size = sizeof(report);
    if (!rc)
        rc = p2mt_end(sender->p2mt, &report);
    if (!rc)
        *sent = report.pages_accepted; /* pages_owed includes pfns without a frame */
    return rc;
}

static int migrate(struct sender *sender)
{
    uint32_t checkpoints = harness_checkpoints(sender->guest), i;
    uint64_t sent = 0;
    int rc = 0;

    for (i = 1; !rc && i <= PASSES_MAX; i++) { /* upstream's policy */
        rc = pass(sender, P2MT_LIVE, &sent);
        if (i > 1 && sent < FEW_PAGES)
            break;
    }
    for (i = 0; !rc && i < checkpoints; i++) {
        harness_suspend(sender->guest);
        rc = pass(sender, P2MT_CHECKPOINT, &sent);
        if (!rc && harness_judge(sender->guest))
            return 1;
        harness_resume(sender->guest);
        if (!rc)
            rc = pass(sender, P2MT_LIVE, &sent);
    }
    harness_suspend(sender->guest);
    return rc ? rc : pass(sender, P2MT_FINAL, &sent);
}

static int run(const char *scenario, uint64_t seed, int reads)
{
    struct sender sender;
    const char *harm;
    int rc, wrong;

    memset(&sender, 0, sizeof(sender));
    sender.guest = harness_new(scenario, seed, GUEST_BYTES, 1, P2MT_WIDTH_64);
    sender.reads = reads;
    sender.p2mt = host_create(sender.guest, reads ? P2MT_HOST_READS_P2M : P2MT_PASSIVE, 1, P2MT_WIDTH_64);
    if (!sender.p2mt)
        return 1;
    rc = migrate(&sender);
    if (rc < 0) {
        printf("%s %llu: ended with %d\n", scenario, (unsigned long long)seed, rc);
        wrong = !harness_is_hostile(scenario);
    } else {
        wrong = rc || harness_judge(sender.guest);
        if (wrong)
            harness_explain(sender.guest);
    }
    p2mt_destroy(sender.p2mt);
    harness_log_off(sender.guest);
    harm = harness_harm(sender.guest);
    if (wrong || harm)
        printf("%s %llu: WRONG %s\n", scenario, (unsigned long long)seed, harm ? harm : "");
    wrong = wrong || harm;
    harness_free(sender.guest);
    return wrong;
}

int main(int argc, char **argv)
{
    int reads = argc > 1 && !strcmp(argv[1], "reads");
    const char *only = argc > 2 && strcmp(argv[2], "all") ? argv[2] : NULL, *scenario;
    uint64_t seeds = argc > 3 ? strtoull(argv[3], NULL, 10) : 3, seed;
    unsigned int runs = 0, wrong = 0;
    size_t i;

    for (i = 0; (scenario = harness_scenario(i)); i++)
        for (seed = 1; seed <= seeds && (!only || !strcmp(only, scenario)); seed++, runs++)
            wrong += (unsigned int)run(scenario, seed, reads);
    printf("%u migrations, %s, %u wrong\n", runs, reads ? "reading its own p2m" : "by p2mtrack's entries", wrong);
    return !runs || wrong;
}
