/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The simulated Xen of theatre.h for OCaml: the stubs behind theatre.ml. A toolstack has its own hypercalls instead.
 * A theatre is a number: its address and 1. None of these calls OCaml.
 */
#define CAML_NAME_SPACE
#include <stdlib.h>

#include <caml/alloc.h>
#include <caml/bigarray.h>
#include <caml/fail.h>
#include <caml/memory.h>
#include <caml/mlvalues.h>

#include "theatre.h"

#define Theatre_val(v) ((struct theatre *)((v) & ~(value)1))
#define Words_val(v) ((uint64_t *)Caml_ba_data_val(v))

static size_t count_of(value words)
{
    return (size_t)Caml_ba_array_val(words)->dim[0];
}

static value option_of(const char *text)
{
    CAMLparam0();
    CAMLlocal2(content, result);

    if (!text)
        CAMLreturn(Val_int(0));
    content = caml_copy_string(text);
    result = caml_alloc_small(1, 0);
    Field(result, 0) = content;
    CAMLreturn(result);
}

static void *room_for(size_t count, size_t size)
{
    void *room = calloc(count ? count : 1, size);

    if (!room)
        caml_raise_out_of_memory();
    return room;
}

CAMLprim value ml_theatre_scenario(value index)
{
    return option_of(theatre_scenario((size_t)Long_val(index)));
}

CAMLprim value ml_theatre_is_hostile(value scenario)
{
    return Val_bool(theatre_is_hostile(String_val(scenario)));
}

CAMLprim value ml_theatre_new(value scenario, value seed, value bytes, value threads)
{
    struct theatre *theatre = theatre_new(String_val(scenario), (uint64_t)Long_val(seed), (uint64_t)Long_val(bytes),
                                          (uint32_t)Long_val(threads), 64);

    if (!theatre)
        caml_raise_not_found();
    return (value)theatre | 1;
}

/* What takes a theatre only. */
#define PLAIN(name, result)                       \
    CAMLprim value ml_theatre_##name(value theatre) \
    {                                             \
        result;                                   \
    }
PLAIN(free, theatre_free(Theatre_val(theatre)); return Val_unit)
PLAIN(suspend, theatre_suspend(Theatre_val(theatre)); return Val_unit)
PLAIN(resume, theatre_resume(Theatre_val(theatre)); return Val_unit)
PLAIN(explain, theatre_explain(Theatre_val(theatre)); return Val_unit)
PLAIN(checkpoints, return Val_long(theatre_checkpoints(Theatre_val(theatre))))
PLAIN(wants_suspend, return Val_bool(theatre_wants_suspend(Theatre_val(theatre))))
PLAIN(m2p_frames, return Val_long(theatre_m2p_frames(Theatre_val(theatre))))
PLAIN(m2p, return caml_copy_nativeint((intnat)theatre_m2p(Theatre_val(theatre))))
PLAIN(log_on, return Val_int(theatre_log_on(Theatre_val(theatre))))
PLAIN(log_off, return Val_int(theatre_log_off(Theatre_val(theatre))))
PLAIN(confirm, return Val_int(theatre_confirm(Theatre_val(theatre))))
PLAIN(judge, return Val_int(theatre_judge(Theatre_val(theatre))))
PLAIN(harm, return option_of(theatre_harm(Theatre_val(theatre))))

/* Into the first words of `to`. */
CAMLprim value ml_theatre_domain_frames(value theatre, value to)
{
    return Val_int(theatre_domain_frames(Theatre_val(theatre), Words_val(to)));
}

CAMLprim value ml_theatre_roots(value theatre, value to)
{
    return Val_int(theatre_roots(Theatre_val(theatre), Words_val(to)));
}

CAMLprim value ml_theatre_read(value theatre, value mfn, value words)
{
    return Val_int(theatre_read(Theatre_val(theatre), (uint64_t)Int64_val(mfn), Words_val(words)));
}

CAMLprim value ml_theatre_map(value theatre, value mfns)
{
    CAMLparam1(mfns);
    CAMLlocal3(result, content, one);
    size_t count = count_of(mfns), i;
    const void **addresses = room_for(count, sizeof(*addresses));
    int32_t *errors = room_for(count, sizeof(*errors));

    theatre_map(Theatre_val(theatre), Words_val(mfns), count, addresses, errors);
    result = caml_alloc(count, 0);
    for (i = 0; i < count; i++) {
        content = addresses[i] ? caml_copy_nativeint((intnat)addresses[i]) : Val_int(-errors[i]);
        one = caml_alloc_small(1, addresses[i] ? 0 : 1); /* Ok, Error */
        Field(one, 0) = content;
        Store_field(result, i, one);
    }
    free(addresses);
    free(errors);
    CAMLreturn(result);
}

CAMLprim value ml_theatre_unmap(value theatre, value addresses)
{
    size_t count = Wosize_val(addresses), i;
    const void **list = room_for(count, sizeof(*list));
    int code;

    for (i = 0; i < count; i++)
        list[i] = (const void *)Nativeint_val(Field(addresses, i));
    code = theatre_unmap(Theatre_val(theatre), list, count);
    free(list);
    return Val_int(code);
}

CAMLprim value ml_theatre_types(value theatre, value mfns, value types)
{
    size_t count = count_of(mfns), i;
    uint32_t *list = room_for(count, sizeof(*list));
    int code = theatre_types(Theatre_val(theatre), Words_val(mfns), count, list);

    for (i = 0; i < count && i < Wosize_val(types); i++)
        Field(types, i) = Val_long(list[i]); /* numbers, both before and after */
    free(list);
    return Val_int(code);
}

/* How many there are, or an errno. */
CAMLprim value ml_theatre_unlogged(value theatre, value pfns)
{
    size_t count;
    int code = theatre_unlogged(Theatre_val(theatre), Words_val(pfns), count_of(pfns), &count);

    return code ? Val_int(code) : Val_long(count);
}

CAMLprim value ml_theatre_transfers(value theatre, value names)
{
    size_t count;
    int code = theatre_transfers(Theatre_val(theatre), Words_val(names), count_of(names), &count);

    return code ? Val_int(code) : Val_long(count);
}

/* 0, 1, or an errno. */
CAMLprim value ml_theatre_accepts_transfer(value theatre)
{
    int32_t accepts = 0;
    int code = theatre_accepts_transfer(Theatre_val(theatre), &accepts);

    return Val_int(code ? code : accepts != 0);
}

/* How many pfns were read, or an errno. */
CAMLprim value ml_theatre_clean(value theatre, value words)
{
    uint64_t read = 0;
    int code = theatre_clean(Theatre_val(theatre), Words_val(words), count_of(words) * 64, &read);

    return code ? Val_int(code) : Val_long(read);
}

/* Data into content[0], a page table into the words. */
CAMLprim value ml_theatre_read_page(value theatre, value mfn, value type, value content, value words)
{
    return Val_int(theatre_read_page(Theatre_val(theatre), (uint64_t)Long_val(mfn), (uint32_t)Long_val(type),
                                     Words_val(content), Words_val(words)));
}

CAMLprim value ml_theatre_send_page(value theatre, value pfn, value type, value content, value words)
{
    return Val_int(theatre_send_page(Theatre_val(theatre), (uint64_t)Long_val(pfn), (uint32_t)Long_val(type),
                                     Words_val(content)[0], Words_val(words)));
}

CAMLprim value ml_theatre_send_frame_list(value theatre, value leaves, value pfn_count)
{
    return Val_int(theatre_send_frame_list(Theatre_val(theatre), Words_val(leaves), count_of(leaves),
                                           (uint64_t)Int64_val(pfn_count)));
}

CAMLprim value ml_theatre_send_gone(value theatre, value pfns)
{
    return Val_int(theatre_send_gone(Theatre_val(theatre), Words_val(pfns), count_of(pfns)));
}
