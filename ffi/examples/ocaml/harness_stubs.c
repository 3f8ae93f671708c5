/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The simulated Xen of harness.h for OCaml: the stubs behind harness.ml. A toolstack has its own
 * hypercalls instead. A harness is a number: its address with bit 0 set. No stub calls OCaml.
 */
#define CAML_NAME_SPACE
#include <stdlib.h>

#include <caml/alloc.h>
#include <caml/bigarray.h>
#include <caml/fail.h>
#include <caml/memory.h>
#include <caml/mlvalues.h>

#include "harness.h"

#define Harness_val(v) ((struct harness *)((v) & ~(value)1))
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

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);

    if (!memory)
        caml_raise_out_of_memory();
    return memory;
}

CAMLprim value ml_harness_scenario(value index)
{
    return option_of(harness_scenario((size_t)Long_val(index)));
}

CAMLprim value ml_harness_is_hostile(value scenario)
{
    return Val_bool(harness_is_hostile(String_val(scenario)));
}

CAMLprim value ml_harness_new(value scenario, value seed, value bytes, value threads)
{
    struct harness *harness = harness_new(String_val(scenario), (uint64_t)Long_val(seed), (uint64_t)Long_val(bytes),
                                          (uint32_t)Long_val(threads), 64);

    if (!harness)
        caml_raise_not_found();
    return (value)harness | 1;
}

/* Functions that take only a harness. */
#define PLAIN(name, result)                       \
    CAMLprim value ml_harness_##name(value harness) \
    {                                             \
        result;                                   \
    }
PLAIN(free, harness_free(Harness_val(harness)); return Val_unit)
PLAIN(suspend, harness_suspend(Harness_val(harness)); return Val_unit)
PLAIN(resume, harness_resume(Harness_val(harness)); return Val_unit)
PLAIN(explain, harness_explain(Harness_val(harness)); return Val_unit)
PLAIN(checkpoints, return Val_long(harness_checkpoints(Harness_val(harness))))
PLAIN(wants_suspend, return Val_bool(harness_wants_suspend(Harness_val(harness))))
PLAIN(m2p_frames, return Val_long(harness_m2p_frames(Harness_val(harness))))
PLAIN(m2p, return caml_copy_nativeint((intnat)harness_m2p(Harness_val(harness))))
PLAIN(log_on, return Val_int(harness_log_on(Harness_val(harness))))
PLAIN(log_off, return Val_int(harness_log_off(Harness_val(harness))))
PLAIN(confirm, return Val_int(harness_confirm(Harness_val(harness))))
PLAIN(judge, return Val_int(harness_judge(Harness_val(harness))))
PLAIN(harm, return option_of(harness_harm(Harness_val(harness))))

/* Into the first words of `to`. */
CAMLprim value ml_harness_domain_frames(value harness, value to)
{
    return Val_int(harness_domain_frames(Harness_val(harness), Words_val(to)));
}

CAMLprim value ml_harness_roots(value harness, value to)
{
    return Val_int(harness_roots(Harness_val(harness), Words_val(to)));
}

CAMLprim value ml_harness_read(value harness, value mfn, value words)
{
    return Val_int(harness_read(Harness_val(harness), (uint64_t)Int64_val(mfn), Words_val(words)));
}

CAMLprim value ml_harness_map(value harness, value mfns)
{
    CAMLparam1(mfns);
    CAMLlocal3(result, content, one);
    size_t count = count_of(mfns), i;
    const void **addresses = allocate(count, sizeof(*addresses));
    int32_t *errors = allocate(count, sizeof(*errors));

    harness_map(Harness_val(harness), Words_val(mfns), count, addresses, errors);
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

CAMLprim value ml_harness_unmap(value harness, value addresses)
{
    size_t count = Wosize_val(addresses), i;
    const void **list = allocate(count, sizeof(*list));
    int code;

    for (i = 0; i < count; i++)
        list[i] = (const void *)Nativeint_val(Field(addresses, i));
    code = harness_unmap(Harness_val(harness), list, count);
    free(list);
    return Val_int(code);
}

CAMLprim value ml_harness_types(value harness, value mfns, value types)
{
    size_t count = count_of(mfns), i;
    uint32_t *list = allocate(count, sizeof(*list));
    int code = harness_types(Harness_val(harness), Words_val(mfns), count, list);

    for (i = 0; i < count && i < Wosize_val(types); i++)
        Field(types, i) = Val_long(list[i]); /* a number before, too: no write barrier needed */
    free(list);
    return Val_int(code);
}

/* How many there are, or an errno. */
CAMLprim value ml_harness_unlogged(value harness, value pfns)
{
    size_t count;
    int code = harness_unlogged(Harness_val(harness), Words_val(pfns), count_of(pfns), &count);

    return code ? Val_int(code) : Val_long(count);
}

CAMLprim value ml_harness_transfers(value harness, value names)
{
    size_t count;
    int code = harness_transfers(Harness_val(harness), Words_val(names), count_of(names), &count);

    return code ? Val_int(code) : Val_long(count);
}

/* 0, 1, or an errno. */
CAMLprim value ml_harness_accepts_transfer(value harness)
{
    int32_t accepts = 0;
    int code = harness_accepts_transfer(Harness_val(harness), &accepts);

    return Val_int(code ? code : accepts != 0);
}

/* How many pfns were read, or an errno. */
CAMLprim value ml_harness_clean(value harness, value words)
{
    uint64_t read = 0;
    int code = harness_clean(Harness_val(harness), Words_val(words), count_of(words) * 64, &read);

    return code ? Val_int(code) : Val_long(read);
}

/* Data into content[0], a page table into the words. */
CAMLprim value ml_harness_read_page(value harness, value mfn, value type, value content, value words)
{
    return Val_int(harness_read_page(Harness_val(harness), (uint64_t)Long_val(mfn), (uint32_t)Long_val(type),
                                     Words_val(content), Words_val(words)));
}

CAMLprim value ml_harness_send_page(value harness, value pfn, value type, value content, value words)
{
    return Val_int(harness_send_page(Harness_val(harness), (uint64_t)Long_val(pfn), (uint32_t)Long_val(type),
                                     Words_val(content)[0], Words_val(words)));
}

CAMLprim value ml_harness_send_frame_list(value harness, value leaves, value pfn_count)
{
    return Val_int(harness_send_frame_list(Harness_val(harness), Words_val(leaves), count_of(leaves),
                                           (uint64_t)Int64_val(pfn_count)));
}

CAMLprim value ml_harness_send_gone(value harness, value pfns)
{
    return Val_int(harness_send_gone(Harness_val(harness), Words_val(pfns), count_of(pfns)));
}
