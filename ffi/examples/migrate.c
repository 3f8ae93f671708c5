/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Migrates simulated guests with the whole interface: the host drives the rounds, takes batches,
 * sends and answers them.
 *
 *     migrate [THREADS [SCENARIO [SEEDS [MIB [WIDTH]]]]]    default: 1 all 3 32 64
 *
 * Exit status 0: every guest arrived identical (a hostile one may end in an error), and no source was harmed.
 */
#include <stdlib.h>

#include "host.h"

/* Everything that one migration needs. */
struct sender {
    struct harness *guest;
    struct p2mt *p2mt;
    struct p2mt_page pages[P2MT_BATCH_MAX];
    struct p2mt_page_answer answers[P2MT_BATCH_MAX];
};

/* The log: a buffer from the library, CLEAN from Xen. */
static int begin(struct sender *sender, uint32_t stage)
{
    struct p2mt_log_buffer buffer;
    uint64_t read = 0;
    int rc = p2mt_begin(sender->p2mt, stage, &buffer);

    if (!rc && buffer.pfns)
        rc = harness_clean(sender->guest, buffer.words, buffer.pfns, &read);
    return rc ? rc : p2mt_scan(sender->p2mt, read, NULL);
}

static int send_frame_list(struct sender *sender)
{
    size_t count;
    uint64_t pfn_count, serial, *leaves;
    int rc = p2mt_frame_list(sender->p2mt, NULL, 0, &count, &pfn_count, &serial); /* how long is it? */

    if (rc)
        return rc;
    leaves = malloc((count ? count : 1) * sizeof(*leaves));
    rc = p2mt_frame_list(sender->p2mt, leaves, count, &count, &pfn_count, &serial);
    if (!rc)
        rc = harness_send_frame_list(sender->guest, leaves, count, pfn_count);
    free(leaves);
    return rc ? rc : p2mt_frame_list_sent(sender->p2mt, serial);
}

/* Reads, normalises (page tables) and sends a page. One that can't be sent now is deferred. */
static int send_page(struct sender *sender, size_t index)
{
    const struct p2mt_page *page = &sender->pages[index];
    struct p2mt_page_answer *answer = &sender->answers[index];
    uint64_t content = 0, words[512];
    int rc = harness_read_page(sender->guest, page->mfn, page->type, &content, words);

    memset(answer, 0, sizeof(*answer));
    if (rc) {
        answer->verdict = P2MT_DEFERRED;
        answer->reason = P2MT_DEFER_MAP;
        answer->errnum = rc;
        return 0;
    }
    if (page->type) {
        rc = p2mt_normalise(sender->p2mt, index, words, NULL);
        if (rc == P2MT_E_TABLE) {
            answer->verdict = P2MT_DEFERRED;
            answer->reason = P2MT_DEFER_TABLE;
            return 0;
        }
        if (rc)
            return rc;
    }
    return harness_send_page(sender->guest, page->pfn, page->type, content, words);
}

static int send_gone(struct sender *sender)
{
    uint64_t pfns[256], from = 0;
    size_t count;
    int rc;

    while (!(rc = p2mt_gone(sender->p2mt, from, pfns, 256, &count)) && count) {
        rc = harness_send_gone(sender->guest, pfns, count);
        if (rc)
            break;
        from = pfns[count - 1] + 1;
    }
    return rc;
}

static int run_round(struct sender *sender, uint32_t stage)
{
    size_t count, i;
    uint32_t todo;
    int rc = begin(sender, stage);

    if (rc)
        return rc;
    do {
        rc = p2mt_take(sender->p2mt, sender->pages, sizeof(*sender->pages), P2MT_BATCH_MAX, &count, &todo);
        if (!rc && todo & P2MT_DO_FRAME_LIST)
            rc = send_frame_list(sender);
        for (i = 0; !rc && i < count; i++)
            rc = send_page(sender, i);
        if (!rc && count)
            rc = p2mt_answer(sender->p2mt, sender->answers, sizeof(*sender->answers), count);
    } while (!rc && count);
    if (!rc && stage != P2MT_LIVE) {
        rc = send_gone(sender);
        if (!rc)
            rc = harness_confirm(sender->guest);
    }
    return rc ? rc : p2mt_end(sender->p2mt, NULL);
}

static int live_until_quiet(struct sender *sender)
{
    int rc = 0;

    while (!rc && !harness_wants_suspend(sender->guest))
        rc = run_round(sender, P2MT_LIVE);
    return rc;
}

static int migrate(struct sender *sender)
{
    uint32_t checkpoints = harness_checkpoints(sender->guest), i;
    int rc = 0;

    for (i = 0; !rc && i < checkpoints; i++) {
        rc = run_round(sender, P2MT_LIVE);
        harness_suspend(sender->guest);
        if (!rc)
            rc = run_round(sender, P2MT_CHECKPOINT);
        if (!rc && harness_judge(sender->guest))
            return 1;
        harness_resume(sender->guest);
    }
    if (!rc)
        rc = live_until_quiet(sender);
    harness_suspend(sender->guest);
    return rc ? rc : run_round(sender, P2MT_FINAL);
}

/* 0: success. */
static int run(const char *scenario, uint64_t seed, uint32_t threads, uint64_t guest_bytes, uint32_t width)
{
    static struct sender sender;
    const char *harm;
    int rc, wrong;

    sender.guest = harness_new(scenario, seed, guest_bytes, threads, width);
    sender.p2mt = host_create(sender.guest, P2MT_FULL, threads, width);
    if (!sender.p2mt)
        return 1;
    rc = migrate(&sender);
    if (rc < 0) {
        struct p2mt_error error;
        memset(&error, 0, sizeof(error));
        error.size = sizeof(error);
        p2mt_last_error(sender.p2mt, &error);
        printf("%s %llu: ended with %d (%s)\n", scenario, (unsigned long long)seed, rc, error.text);
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
    uint32_t threads = argc > 1 ? (uint32_t)atoi(argv[1]) : 1;
    const char *only = argc > 2 && strcmp(argv[2], "all") ? argv[2] : NULL, *scenario;
    uint64_t seeds = argc > 3 ? strtoull(argv[3], NULL, 10) : 3, seed;
    uint64_t mib = argc > 4 ? strtoull(argv[4], NULL, 10) : 32;
    uint32_t width = argc > 5 ? (uint32_t)atoi(argv[5]) : P2MT_WIDTH_64;
    unsigned int runs = 0, wrong = 0;
    size_t i;

    for (i = 0; (scenario = harness_scenario(i)); i++)
        for (seed = 1; seed <= seeds && (!only || !strcmp(only, scenario)); seed++, runs++)
            wrong += (unsigned int)run(scenario, seed, threads, mib << 20, width);
    printf("%u migrations of %llu MiB, %u bits, with %u threads, %u wrong\n", runs, (unsigned long long)mib, width, threads,
           wrong);
    return !runs || wrong;
}
