/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The callbacks of a host whose hypervisor is the harness. A toolstack writes them over its own
 * hypercalls. Errors of the harness are passed on unchanged: HARNESS_NOT_OWNED has the number of
 * P2MT_NOT_OWNED. Used by migrate.c and passive.c.
 */
#ifndef HOST_H
#define HOST_H

#include <stdio.h>
#include <string.h>

#include "p2mtrack.h"
#include "harness.h"

static int host_domain_frames(void *user, const struct p2mt_domain_frames_call *call)
{
    return harness_domain_frames(user, call->frames);
}

static int host_roots(void *user, const struct p2mt_roots_call *call)
{
    uint64_t words[5];
    int rc = harness_roots(user, words);
    if (rc)
        return rc;
    call->roots->pfn_count = words[0]; /* every version has these fields: no check of size */
    call->roots->frame_list_list = words[1];
    call->roots->p2m_cr3 = words[2];
    call->roots->p2m_vaddr = words[3];
    call->roots->generation = words[4];
    return 0;
}

static int host_read(void *user, const struct p2mt_read_call *call)
{
    return harness_read(user, call->mfn, call->words);
}

static int host_map(void *user, const struct p2mt_map_call *call)
{
    return harness_map(user, call->mfns, call->count, call->addresses, call->errors);
}

static int host_unmap(void *user, const struct p2mt_unmap_call *call)
{
    return harness_unmap(user, call->addresses, call->count);
}

static int host_types(void *user, const struct p2mt_types_call *call)
{
    return harness_types(user, call->mfns, call->count, call->types);
}

static int host_unlogged(void *user, const struct p2mt_unlogged_call *call)
{
    return harness_unlogged(user, call->pfns, call->capacity, call->count);
}

static int host_accepts_transfer(void *user, const struct p2mt_accepts_transfer_call *call)
{
    return harness_accepts_transfer(user, call->accepts);
}

static int host_transfers(void *user, const struct p2mt_transfers_call *call)
{
    return harness_transfers(user, call->names, call->capacity, call->count);
}

static int host_log(void *user, const struct p2mt_log_call *call)
{
    (void)user;
    if (call->level <= P2MT_LOG_ERROR)
        fprintf(stderr, "p2mtrack: %s\n", call->text);
    return 0;
}

/* A handle for the guest of a harness, log-dirty on. NULL after a message. */
static struct p2mt *host_create(struct harness *harness, uint32_t mode, uint32_t threads, uint32_t width)
{
    struct p2mt_config config;
    struct p2mt_host host;
    struct p2mt_error error;
    struct p2mt *handle = NULL;

    memset(&config, 0, sizeof(config));
    config.size = sizeof(config);
    config.width = width;
    config.mode = mode;
    config.threads = threads;

    memset(&host, 0, sizeof(host));
    host.size = sizeof(host);
    host.user = harness;
    host.domain_frames = host_domain_frames;
    host.roots = host_roots;
    host.read = host_read;
    host.map = host_map;
    host.unmap = host_unmap;
    host.types = host_types;
    host.unlogged = host_unlogged;
    host.accepts_transfer = host_accepts_transfer;
    host.log = host_log;
    host.m2p = harness_m2p(harness);
    host.m2p_frames = harness_m2p_frames(harness);
    host.compat_m2p_mfn = harness_compat_m2p(harness);
    host.transfers = host_transfers;

    memset(&error, 0, sizeof(error));
    error.size = sizeof(error);
    if (harness_log_on(harness) || p2mt_create(&config, &host, &error, &handle)) {
        fprintf(stderr, "p2mt_create: %s\n", error.text);
        return NULL;
    }
    return handle;
}

#endif
