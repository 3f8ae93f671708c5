/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * libp2mtrack for OCaml: the stubs behind p2mt.ml, which defines the types and the order of their
 * constructors and fields.
 *
 * - A call keeps the runtime's lock: its callbacks are OCaml and run on its thread. The library's
 *   own threads call none.
 * - A callback passes its arguments to a closure as a number (their address with bit 0 set), and
 *   allocates nothing here: code that may raise runs in OCaml, below caml_callback_exn, so that no
 *   exception crosses the library.
 * - Memory to which the library has pointers is outside of OCaml's heap: bigarrays and
 *   `struct migration`.
 */
#define CAML_NAME_SPACE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <caml/alloc.h>
#include <caml/bigarray.h>
#include <caml/callback.h>
#include <caml/custom.h>
#include <caml/fail.h>
#include <caml/memory.h>
#include <caml/mlvalues.h>

#include "p2mtrack.h"

/* Constructors without arguments are numbers from 0 on, in order: they are passed on unchanged. */
_Static_assert(P2MT_HOST_READS_P2M == 2 && P2MT_KERNEL_AVX512 == 4 && P2MT_VERIFY_FULL == 1 && P2MT_ALIAS_COPY == 1 &&
                   P2MT_FOREIGN_PTE_CLEAR == 1 && P2MT_UNACCOUNTED_REPORT == 1 && P2MT_FINAL == 2,
               "p2mt.ml");

#define PAGE_WORDS 512
#define WORDS (CAML_BA_INT64 | CAML_BA_C_LAYOUT)

struct migration {
    struct p2mt *p2mt; /* NULL: destroyed */
    value callbacks;   /* closures, in the order of struct p2mt_host; a generational global root */
    struct p2mt_page pages[P2MT_BATCH_MAX];
    struct p2mt_page_answer answers[P2MT_BATCH_MAX];
};

#define Migration_val(v) (*(struct migration **)Data_custom_val(v))

/*
 * This must not call OCaml, as p2mt_destroy does (unmap), nor remove a root: p2mt.ml destroys the
 * handle before, by Gc.finalise. A handle that was not destroyed then is leaked.
 */
static void finalise(value handle)
{
    struct migration *migration = Migration_val(handle);

    if (migration && !migration->p2mt)
        free(migration);
}

static struct custom_operations operations = {
    "p2mtrack.migration",       finalise,
    custom_compare_default,     custom_hash_default,
    custom_serialize_default,   custom_deserialize_default,
    custom_compare_ext_default, custom_fixed_length_default,
};

/* --- values --- */

static value block(int tag, value content)
{
    CAMLparam1(content);
    CAMLlocal1(result);
    result = caml_alloc_small(1, tag);
    Field(result, 0) = content;
    CAMLreturn(result);
}

/* Ok and Error */
static value done(value content)
{
    return block(0, content);
}

static value failed(int code)
{
    return block(1, Val_int(code));
}

static value done_or_failed(int code)
{
    return code ? failed(code) : done(Val_unit);
}

static value words_of(const uint64_t *from, size_t count)
{
    value words = caml_ba_alloc_dims(WORDS, 1, NULL, (intnat)count);

    if (count)
        memcpy(Caml_ba_data_val(words), from, count * sizeof(*from));
    return words;
}

static size_t count_of(value words)
{
    return (size_t)Caml_ba_array_val(words)->dim[0];
}

static uint32_t u32(value number)
{
    return (unsigned long)Long_val(number) > UINT32_MAX ? UINT32_MAX : (uint32_t)Long_val(number);
}

static value raw_error(const struct p2mt_error *error)
{
    CAMLparam0();
    CAMLlocal1(result);
    result = caml_alloc_tuple(6);
    Store_field(result, 0, Val_int(error->code));
    Store_field(result, 1, Val_int(error->errnum));
    Store_field(result, 2, Val_int(error->level));
    Store_field(result, 3, caml_copy_int64((int64_t)error->pfn));
    Store_field(result, 4, caml_copy_int64((int64_t)error->mfn));
    Store_field(result, 5, caml_copy_string(error->text));
    CAMLreturn(result);
}

static value report_of(const struct p2mt_report *report)
{
    CAMLparam0();
    CAMLlocal1(result);
    result = caml_alloc_tuple(10);
    Store_field(result, 0, Val_long(report->round));
    Store_field(result, 1, Val_long(report->pages_owed));
    Store_field(result, 2, Val_long(report->pages_accepted));
    Store_field(result, 3, Val_long(report->pages_left));
    Store_field(result, 4, Val_long(report->entries_beyond_log_dirty));
    Store_field(result, 5, Val_long(report->settled_gone));
    Store_field(result, 6, Val_long(report->uncertain));
    Store_field(result, 7, Val_bool(report->p2m_unreadable));
    Store_field(result, 8, caml_copy_double(report->dirty_rate));
    Store_field(result, 9, Val_int(0)); /* None */
    if (report->unaccounted_frames != INT64_MIN)
        Store_field(result, 9, block(0, Val_long(report->unaccounted_frames)));
    CAMLreturn(result);
}

/* --- callbacks --- */

enum callback { DOMAIN_FRAMES, ROOTS, READ, MAP, UNMAP, TYPES, UNLOGGED, ACCEPTS_TRANSFER, LOG, TRANSFERS };

/*
 * The closure catches exceptions and keeps them for p2mt.ml; one that it does not catch (no memory)
 * becomes an errno here.
 */
static int call_ocaml(void *user, enum callback which, const void *call)
{
    const struct migration *migration = user;
    value result = caml_callback_exn(Field(migration->callbacks, which), (value)call | 1);

    return Is_exception_result(result) ? -EIO : Int_val(result);
}

#define CALLBACK(name, which)                                               \
    static int on_##name(void *user, const struct p2mt_##name##_call *call) \
    {                                                                       \
        return call_ocaml(user, which, call);                               \
    }
CALLBACK(domain_frames, DOMAIN_FRAMES)
CALLBACK(roots, ROOTS)
CALLBACK(read, READ)
CALLBACK(map, MAP)
CALLBACK(unmap, UNMAP)
CALLBACK(types, TYPES)
CALLBACK(unlogged, UNLOGGED)
CALLBACK(accepts_transfer, ACCEPTS_TRANSFER)
CALLBACK(log, LOG)
CALLBACK(transfers, TRANSFERS)

#define CALL(name, call) ((const struct p2mt_##name##_call *)((call) & ~(value)1))

CAMLprim value ml_p2mt_mfn_of_read(value call)
{
    return caml_copy_int64((int64_t)CALL(read, call)->mfn);
}

CAMLprim value ml_p2mt_mfns_of_map(value call)
{
    return words_of(CALL(map, call)->mfns, CALL(map, call)->count);
}

CAMLprim value ml_p2mt_mfns_of_types(value call)
{
    return words_of(CALL(types, call)->mfns, CALL(types, call)->count);
}

CAMLprim value ml_p2mt_addresses_of_unmap(value call)
{
    CAMLparam0(); /* `call` is a number */
    CAMLlocal1(addresses);
    size_t count = CALL(unmap, call)->count, i;

    addresses = caml_alloc(count, 0);
    for (i = 0; i < count; i++)
        Store_field(addresses, i, caml_copy_nativeint((intnat)CALL(unmap, call)->addresses[i]));
    CAMLreturn(addresses);
}

CAMLprim value ml_p2mt_level_of_log(value call)
{
    return Val_int(CALL(log, call)->level);
}

CAMLprim value ml_p2mt_text_of_log(value call)
{
    return caml_copy_string(CALL(log, call)->text);
}

CAMLprim value ml_p2mt_set_domain_frames(value call, value frames)
{
    *CALL(domain_frames, call)->frames = (uint64_t)Long_val(frames);
    return Val_unit;
}

CAMLprim value ml_p2mt_set_roots(value call, value roots)
{
    struct p2mt_roots *to = CALL(roots, call)->roots;

    to->pfn_count = (uint64_t)Int64_val(Field(roots, 0));
    to->frame_list_list = (uint64_t)Int64_val(Field(roots, 1));
    to->p2m_cr3 = (uint64_t)Int64_val(Field(roots, 2));
    to->p2m_vaddr = (uint64_t)Int64_val(Field(roots, 3));
    to->generation = (uint64_t)Int64_val(Field(roots, 4));
    return Val_unit;
}

/* The call's arrays have exactly so many elements. */
static void expect(const char *callback, size_t count, size_t expected)
{
    if (count != expected)
        caml_invalid_argument(callback);
}

CAMLprim value ml_p2mt_set_read(value call, value words)
{
    expect("p2mt: read", count_of(words), PAGE_WORDS);
    memcpy(CALL(read, call)->words, Caml_ba_data_val(words), PAGE_WORDS * sizeof(uint64_t));
    return Val_unit;
}

CAMLprim value ml_p2mt_set_map(value call, value answers)
{
    size_t count = CALL(map, call)->count, i;

    expect("p2mt: map", Wosize_val(answers), count);
    for (i = 0; i < count; i++) {
        value answer = Field(answers, i);
        int mapped = Tag_val(answer) == 0;

        CALL(map, call)->addresses[i] = mapped ? (const void *)Nativeint_val(Field(answer, 0)) : NULL;
        CALL(map, call)->errors[i] = mapped ? 0 : -Int_val(Field(answer, 0));
    }
    return Val_unit;
}

CAMLprim value ml_p2mt_set_types(value call, value types)
{
    size_t count = CALL(types, call)->count, i;

    expect("p2mt: types", Wosize_val(types), count);
    for (i = 0; i < count; i++)
        CALL(types, call)->types[i] = u32(Field(types, i));
    return Val_unit;
}

CAMLprim value ml_p2mt_set_unlogged(value call, value pfns)
{
    size_t count = count_of(pfns), capacity = CALL(unlogged, call)->capacity;

    if (count)
        memcpy(CALL(unlogged, call)->pfns, Caml_ba_data_val(pfns), (count < capacity ? count : capacity) * sizeof(uint64_t));
    *CALL(unlogged, call)->count = count; /* if they do not fit, the library asks again */
    return Val_unit;
}

CAMLprim value ml_p2mt_set_accepts_transfer(value call, value accepts)
{
    *CALL(accepts_transfer, call)->accepts = Bool_val(accepts);
    return Val_unit;
}

CAMLprim value ml_p2mt_set_transfers(value call, value entries)
{
    size_t count = Wosize_val(entries), i;

    for (i = 0; i < count && i < CALL(transfers, call)->capacity; i++) {
        value entry = Field(entries, i); /* Into, Came */

        CALL(transfers, call)->names[i] = (uint64_t)Int64_val(Field(entry, 0)) | (Tag_val(entry) == 0 ? 0 : P2MT_TRANSFER_CAME);
    }
    *CALL(transfers, call)->count = count; /* if they do not fit, the library asks again */
    return Val_unit;
}

/* --- functions --- */

CAMLprim value ml_p2mt_version(value unit)
{
    (void)unit;
    return Val_long(p2mt_version());
}

CAMLprim value ml_p2mt_strerror(value code)
{
    return caml_copy_string(p2mt_strerror(Int_val(code)));
}

CAMLprim value ml_p2mt_create(value config, value host, value callbacks)
{
    CAMLparam3(config, host, callbacks);
    CAMLlocal1(handle);
    static const uint32_t widths[] = {P2MT_WIDTH_32, P2MT_WIDTH_64};
    struct p2mt_config choices = {
        .size = sizeof(choices),
        .width = widths[Int_val(Field(config, 0))],
        .mode = u32(Field(config, 1)),
        .threads = u32(Field(config, 2)),
        .kernel = u32(Field(config, 3)),
        .verify = u32(Field(config, 4)),
        .alias = u32(Field(config, 5)),
        .foreign_pte = u32(Field(config, 6)),
        .uncertain_rounds_max = u32(Field(config, 7)),
        .unaccounted = u32(Field(config, 8)),
    };
    struct p2mt_host lent = {
        .size = sizeof(lent),
        .domain_frames = on_domain_frames,
        .roots = on_roots,
        .read = on_read,
        .map = on_map,
        .unmap = on_unmap,
        .types = on_types,
        .unlogged = on_unlogged,
        .accepts_transfer = on_accepts_transfer,
        .log = on_log,
        .m2p = (const uint64_t *)Nativeint_val(Field(host, 9)),
        .m2p_frames = (uint64_t)Long_val(Field(host, 10)),
        .compat_m2p_mfn = (uint64_t)Int64_val(Field(host, 11)),
        .transfers = on_transfers,
    };
    struct p2mt_error error = {.size = sizeof(error)};
    struct migration *migration;

    handle = caml_alloc_custom_mem(&operations, sizeof(migration), sizeof(*migration));
    Migration_val(handle) = NULL;
    migration = calloc(1, sizeof(*migration));
    if (!migration)
        caml_raise_out_of_memory();
    lent.user = migration;
    migration->callbacks = callbacks;
    caml_register_generational_global_root(&migration->callbacks);
    if (p2mt_create(&choices, &lent, &error, &migration->p2mt)) {
        caml_remove_generational_global_root(&migration->callbacks);
        free(migration);
        CAMLreturn(block(1, raw_error(&error)));
    }
    Migration_val(handle) = migration;
    CAMLreturn(done(handle));
}

CAMLprim value ml_p2mt_destroy(value handle)
{
    CAMLparam1(handle);
    struct migration *migration = Migration_val(handle);
    int code = p2mt_destroy(migration->p2mt);

    if (migration->p2mt && code != P2MT_E_BUSY) {
        migration->p2mt = NULL;
        caml_remove_generational_global_root(&migration->callbacks);
    }
    CAMLreturn(done_or_failed(code));
}

CAMLprim value ml_p2mt_last_error(value handle)
{
    CAMLparam1(handle);
    struct p2mt_error error = {.size = sizeof(error)};
    int code = p2mt_last_error(Migration_val(handle)->p2mt, &error);

    CAMLreturn(code ? failed(code) : done(raw_error(&error)));
}

CAMLprim value ml_p2mt_begin(value handle, value stage)
{
    CAMLparam2(handle, stage);
    struct p2mt_log_buffer buffer;
    int code = p2mt_begin(Migration_val(handle)->p2mt, u32(stage), &buffer);

    CAMLreturn(code ? failed(code) : done(Val_long(buffer.pfns)));
}

CAMLprim value ml_p2mt_feed(value handle, value first, value words)
{
    CAMLparam3(handle, first, words);
    struct p2mt *p2mt = Migration_val(handle)->p2mt;

    CAMLreturn(done_or_failed(
        p2mt_feed(p2mt, (uint64_t)Long_val(first), Caml_ba_data_val(words), (uint64_t)count_of(words) * 64)));
}

CAMLprim value ml_p2mt_scan(value handle, value read)
{
    CAMLparam2(handle, read);
    struct p2mt_report report = {.size = sizeof(report)};
    int code = p2mt_scan(Migration_val(handle)->p2mt, (uint64_t)Long_val(read), &report);

    CAMLreturn(code ? failed(code) : done(report_of(&report)));
}

CAMLprim value ml_p2mt_take(value handle)
{
    CAMLparam1(handle);
    CAMLlocal4(pages, page, entry, result);
    struct migration *migration = Migration_val(handle);
    size_t count, i;
    uint32_t flags;
    int code = p2mt_take(migration->p2mt, migration->pages, sizeof(*migration->pages), P2MT_BATCH_MAX, &count, &flags);

    if (code)
        CAMLreturn(failed(code));
    pages = caml_alloc(count, 0);
    for (i = 0; i < count; i++) {
        const struct p2mt_page *from = &migration->pages[i];

        entry = caml_copy_int64((int64_t)from->entry);
        page = caml_alloc_small(5, 0);
        Field(page, 0) = Val_long(from->pfn);
        Field(page, 1) = Val_long(from->mfn);
        Field(page, 2) = entry;
        Field(page, 3) = Val_long(from->type);
        Field(page, 4) = Val_long(from->causes);
        Store_field(pages, i, page);
    }
    result = caml_alloc_tuple(2);
    Store_field(result, 0, pages);
    page = caml_alloc_small(2, 0); /* todo */
    Field(page, 0) = Val_bool(flags & P2MT_DO_REMAP);
    Field(page, 1) = Val_bool(flags & P2MT_DO_FRAME_LIST);
    Store_field(result, 1, page);
    CAMLreturn(done(result));
}

CAMLprim value ml_p2mt_normalise(value handle, value index, value words)
{
    CAMLparam3(handle, index, words);

    if (count_of(words) != PAGE_WORDS)
        caml_invalid_argument("P2mt.normalise");
    CAMLreturn(done_or_failed(
        p2mt_normalise(Migration_val(handle)->p2mt, (size_t)Long_val(index), Caml_ba_data_val(words), NULL)));
}

static struct p2mt_page_answer answer_of(value answer)
{
    struct p2mt_page_answer result = {.verdict = P2MT_ACCEPTED};
    value why;

    if (Is_long(answer))
        return result;
    why = Field(answer, 0);
    result.verdict = Tag_val(answer) == 0 ? P2MT_DEFERRED : P2MT_FAILED;
    if (result.verdict == P2MT_FAILED) {
        result.errnum = -Int_val(why);
    } else if (Is_block(why)) {
        result.reason = P2MT_DEFER_MAP;
        result.errnum = -Int_val(Field(why, 0));
    } else {
        result.reason = Int_val(why) == 0 ? P2MT_DEFER_TABLE : P2MT_DEFER_NO_ANSWER;
    }
    return result;
}

CAMLprim value ml_p2mt_answer(value handle, value answers)
{
    CAMLparam2(handle, answers);
    struct migration *migration = Migration_val(handle);
    size_t count = Wosize_val(answers), i;

    if (count > P2MT_BATCH_MAX)
        caml_invalid_argument("P2mt.answer");
    for (i = 0; i < count; i++)
        migration->answers[i] = answer_of(Field(answers, i));
    CAMLreturn(
        done_or_failed(p2mt_answer(migration->p2mt, migration->answers, sizeof(*migration->answers), count)));
}

CAMLprim value ml_p2mt_accept(value handle, value count)
{
    CAMLparam2(handle, count);

    CAMLreturn(done_or_failed(p2mt_accept(Migration_val(handle)->p2mt, (size_t)Long_val(count))));
}

CAMLprim value ml_p2mt_frame_list(value handle)
{
    CAMLparam1(handle);
    CAMLlocal2(leaves, result);
    struct p2mt *p2mt = Migration_val(handle)->p2mt;
    size_t count;
    uint64_t pfn_count, serial;
    int code = p2mt_frame_list(p2mt, NULL, 0, &count, &pfn_count, &serial); /* how long is it? */

    if (code)
        CAMLreturn(failed(code));
    leaves = caml_ba_alloc_dims(WORDS, 1, NULL, (intnat)count);
    code = p2mt_frame_list(p2mt, Caml_ba_data_val(leaves), count, &count, &pfn_count, &serial);
    if (code)
        CAMLreturn(failed(code));
    result = caml_alloc_tuple(3);
    Store_field(result, 0, leaves);
    Store_field(result, 1, caml_copy_int64((int64_t)pfn_count));
    Store_field(result, 2, Val_long(serial));
    CAMLreturn(done(result));
}

CAMLprim value ml_p2mt_frame_list_sent(value handle, value serial)
{
    CAMLparam2(handle, serial);

    CAMLreturn(done_or_failed(p2mt_frame_list_sent(Migration_val(handle)->p2mt, (uint64_t)Long_val(serial))));
}

CAMLprim value ml_p2mt_return(value handle, value pfns)
{
    CAMLparam2(handle, pfns);

    CAMLreturn(done_or_failed(p2mt_return(Migration_val(handle)->p2mt, Caml_ba_data_val(pfns), count_of(pfns))));
}

CAMLprim value ml_p2mt_gone(value handle, value from)
{
    CAMLparam2(handle, from);
    uint64_t pfns[1024];
    size_t count;
    int code = p2mt_gone(Migration_val(handle)->p2mt, (uint64_t)Int64_val(from), pfns, 1024, &count);

    CAMLreturn(code ? failed(code) : done(words_of(pfns, count)));
}

CAMLprim value ml_p2mt_cleared_ptes(value handle)
{
    CAMLparam1(handle);
    CAMLlocal1(ptes);
    struct p2mt *p2mt = Migration_val(handle)->p2mt;
    size_t count;
    int code = p2mt_cleared_ptes(p2mt, NULL, 2 * sizeof(uint64_t), 0, &count); /* how many are there? */

    if (code)
        CAMLreturn(failed(code));
    ptes = caml_ba_alloc_dims(WORDS, 1, NULL, (intnat)count * 2); /* pfn and mfn of each */
    code = p2mt_cleared_ptes(p2mt, Caml_ba_data_val(ptes), 2 * sizeof(uint64_t), count, &count);
    CAMLreturn(code ? failed(code) : done(ptes));
}

CAMLprim value ml_p2mt_end(value handle)
{
    CAMLparam1(handle);
    struct p2mt_report report = {.size = sizeof(report)};
    int code = p2mt_end(Migration_val(handle)->p2mt, &report);

    CAMLreturn(code ? failed(code) : done(report_of(&report)));
}

CAMLprim value ml_p2mt_cancel(value handle)
{
    CAMLparam1(handle);

    CAMLreturn(done_or_failed(p2mt_cancel(Migration_val(handle)->p2mt)));
}

CAMLprim value ml_p2mt_verify(value handle, value verify)
{
    CAMLparam2(handle, verify);

    CAMLreturn(done_or_failed(p2mt_verify(Migration_val(handle)->p2mt, u32(verify))));
}

CAMLprim value ml_p2mt_stats(value handle)
{
    CAMLparam1(handle);
    CAMLlocal1(result);
    struct p2mt_totals totals = {.size = sizeof(totals)};
    int code = p2mt_stats(Migration_val(handle)->p2mt, &totals);

    if (code)
        CAMLreturn(failed(code));
    result = caml_alloc_tuple(8);
    Store_field(result, 0, Val_long(totals.rounds));
    Store_field(result, 1, Val_long(totals.rounds_given_up));
    Store_field(result, 2, Val_long(totals.pages_accepted));
    Store_field(result, 3, Val_long(totals.pages_deferred));
    Store_field(result, 4, Val_long(totals.entries_changed));
    Store_field(result, 5, Val_long(totals.entries_beyond_log_dirty));
    Store_field(result, 6, Val_long(totals.owed));
    Store_field(result, 7, Val_long(totals.shadow_bytes));
    CAMLreturn(done(result));
}

CAMLprim value ml_p2mt_why(value handle, value pfn)
{
    CAMLparam2(handle, pfn);
    CAMLlocal1(result);
    struct p2mt_pfn_state state = {.size = sizeof(state)};
    int code = p2mt_why(Migration_val(handle)->p2mt, (uint64_t)Int64_val(pfn), &state);

    if (code)
        CAMLreturn(failed(code));
    result = caml_alloc_tuple(3);
    Store_field(result, 0, Val_long(state.causes));
    Store_field(result, 1, Val_long(state.defer));
    Store_field(result, 2, caml_copy_int64((int64_t)state.entry));
    CAMLreturn(done(result));
}
