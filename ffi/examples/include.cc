// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The header used from C++17: a handle that destroys itself, errors as exceptions, callbacks that
// let no exception out. Migrates one simulated guest with the whole interface, as migrate.c does.
// Not a binding: what a sender in C++ would write for itself.
//
//     include [SCENARIO [SEED]]    default: mixed 1
//
// Exit status 0: the guest arrived identical, and the source was not harmed.

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "p2mtrack.h"
#include "harness.h"

namespace {

struct Error : std::runtime_error {
    explicit Error(const p2mt_error &error) : std::runtime_error(error.text), code(error.code), errnum(error.errnum) {}
    int code, errnum;
};

struct Destroy {
    void operator()(p2mt *handle) const { p2mt_destroy(handle); }
    void operator()(harness *guest) const { harness_free(guest); }
};
using Handle = std::unique_ptr<p2mt, Destroy>;
using Answer = p2mt_page_answer;
using Guest = std::unique_ptr<harness, Destroy>;

// Calls of the harness return a negative errno.
int ok(int code)
{
    if (code < 0)
        throw std::runtime_error("harness: errno " + std::to_string(-code));
    return code;
}

// Makes a callback of a function that may throw: no exception may cross the library. noexcept
// covers what catch can't.
template <typename Call, int (*function)(harness *, const Call *)>
int callback(void *user, const Call *call) noexcept
{
    try {
        return function(static_cast<harness *>(user), call);
    } catch (const std::bad_alloc &) {
        return -ENOMEM;
    } catch (...) {
        return -EIO;
    }
}

int domain_frames(harness *guest, const p2mt_domain_frames_call *call)
{
    return harness_domain_frames(guest, call->frames);
}

int roots(harness *guest, const p2mt_roots_call *call)
{
    std::vector<uint64_t> words(5); // it may throw
    const int code = harness_roots(guest, words.data());
    call->roots->pfn_count = words[0];
    call->roots->frame_list_list = words[1];
    call->roots->p2m_cr3 = words[2];
    call->roots->p2m_vaddr = words[3];
    call->roots->generation = words[4];
    return code;
}

int read(harness *guest, const p2mt_read_call *call)
{
    return harness_read(guest, call->mfn, call->words);
}

int map(harness *guest, const p2mt_map_call *call)
{
    return harness_map(guest, call->mfns, call->count, call->addresses, call->errors);
}

int unmap(harness *guest, const p2mt_unmap_call *call)
{
    return harness_unmap(guest, call->addresses, call->count);
}

int types(harness *guest, const p2mt_types_call *call)
{
    return harness_types(guest, call->mfns, call->count, call->types);
}

int unlogged(harness *guest, const p2mt_unlogged_call *call)
{
    return harness_unlogged(guest, call->pfns, call->capacity, call->count);
}

int accepts_transfer(harness *guest, const p2mt_accepts_transfer_call *call)
{
    return harness_accepts_transfer(guest, call->accepts);
}

int transfers(harness *guest, const p2mt_transfers_call *call)
{
    return harness_transfers(guest, call->names, call->capacity, call->count);
}

int log(harness *, const p2mt_log_call *call)
{
    return call->level <= P2MT_LOG_ERROR && std::fprintf(stderr, "p2mtrack: %s\n", call->text) < 0 ? -EIO : 0;
}

class Migration {
public:
    explicit Migration(harness *of) : guest(of), pages(P2MT_BATCH_MAX)
    {
        p2mt_config config{};
        config.size = sizeof(config);
        config.width = P2MT_WIDTH_64;
        config.mode = P2MT_FULL;
        p2mt_host host{};
        host.size = sizeof(host);
        host.user = guest;
        host.domain_frames = callback<p2mt_domain_frames_call, domain_frames>;
        host.roots = callback<p2mt_roots_call, roots>;
        host.read = callback<p2mt_read_call, read>;
        host.map = callback<p2mt_map_call, map>;
        host.unmap = callback<p2mt_unmap_call, unmap>;
        host.types = callback<p2mt_types_call, types>;
        host.unlogged = callback<p2mt_unlogged_call, unlogged>;
        host.accepts_transfer = callback<p2mt_accepts_transfer_call, accepts_transfer>;
        host.log = callback<p2mt_log_call, log>;
        host.m2p = harness_m2p(guest);
        host.m2p_frames = harness_m2p_frames(guest);
        host.transfers = callback<p2mt_transfers_call, transfers>;
        p2mt_error error{};
        error.size = sizeof(error);
        p2mt *created = nullptr;
        if (p2mt_create(&config, &host, &error, &created))
            throw Error(error);
        handle.reset(created);
    }

    // Whether the destination was identical after each suspended round.
    bool migrate()
    {
        for (uint32_t left = harness_checkpoints(guest); left; left--) {
            round(P2MT_LIVE);
            harness_suspend(guest);
            round(P2MT_CHECKPOINT);
            if (harness_judge(guest))
                return false;
            harness_resume(guest);
        }
        while (!harness_wants_suspend(guest))
            round(P2MT_LIVE);
        harness_suspend(guest);
        round(P2MT_FINAL);
        return !harness_judge(guest);
    }

private:
    // The code of a call; an exception if the code is neither P2MT_OK nor expected.
    int call(int code, int expected = P2MT_OK) const
    {
        if (code == P2MT_OK || code == expected)
            return code;
        p2mt_error error{};
        error.size = sizeof(error);
        if (p2mt_last_error(handle.get(), &error) || error.code != code) { // the handle did not keep it
            error.code = code;
            std::snprintf(error.text, sizeof(error.text), "%s", p2mt_strerror(code));
        }
        throw Error(error);
    }

    void send_frame_list()
    {
        size_t count;
        uint64_t pfn_count, serial;
        call(p2mt_frame_list(handle.get(), nullptr, 0, &count, &pfn_count, &serial)); // how long is it?
        std::vector<uint64_t> leaves(count);
        call(p2mt_frame_list(handle.get(), leaves.data(), leaves.size(), &count, &pfn_count, &serial));
        ok(harness_send_frame_list(guest, leaves.data(), count, pfn_count));
        call(p2mt_frame_list_sent(handle.get(), serial));
    }

    Answer send(size_t index)
    {
        const p2mt_page &page = pages[index];
        uint64_t content = 0, words[512];
        if (const int code = harness_read_page(guest, page.mfn, page.type, &content, words))
            return {P2MT_DEFERRED, P2MT_DEFER_MAP, code, 0};
        if (page.type && call(p2mt_normalise(handle.get(), index, words, nullptr), P2MT_E_TABLE))
            return {P2MT_DEFERRED, P2MT_DEFER_TABLE, 0, 0};
        ok(harness_send_page(guest, page.pfn, page.type, content, words));
        return {P2MT_ACCEPTED, 0, 0, 0};
    }

    void send_gone()
    {
        std::vector<uint64_t> pfns(256);
        uint64_t from = 0;
        for (size_t count; call(p2mt_gone(handle.get(), from, pfns.data(), pfns.size(), &count)), count;) {
            ok(harness_send_gone(guest, pfns.data(), count));
            from = pfns[count - 1] + 1;
        }
    }

    void round(uint32_t stage)
    {
        p2mt_log_buffer buffer{};
        uint64_t read = 0;
        call(p2mt_begin(handle.get(), stage, &buffer));
        if (buffer.pfns)
            ok(harness_clean(guest, buffer.words, buffer.pfns, &read));
        call(p2mt_scan(handle.get(), read, nullptr));
        for (;;) {
            size_t count;
            uint32_t todo;
            call(p2mt_take(handle.get(), pages.data(), sizeof(p2mt_page), pages.size(), &count, &todo));
            if (todo & P2MT_DO_FRAME_LIST)
                send_frame_list();
            if (!count)
                break;
            std::vector<Answer> answers;
            for (size_t index = 0; index < count; index++)
                answers.push_back(send(index));
            call(p2mt_answer(handle.get(), answers.data(), sizeof(Answer), answers.size()));
        }
        if (stage != P2MT_LIVE) {
            send_gone();
            ok(harness_confirm(guest));
        }
        call(p2mt_end(handle.get(), nullptr));
    }

    harness *guest;
    std::vector<p2mt_page> pages;
    Handle handle;
};

} // namespace

int main(int argc, char **argv)
{
    const std::string scenario = argc > 1 ? argv[1] : "mixed";
    const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
    const Guest guest(harness_new(scenario.c_str(), seed, 32u << 20, 1, P2MT_WIDTH_64));
    bool right = false;

    if (!guest) {
        std::fprintf(stderr, "no scenario %s\n", scenario.c_str());
        return 1;
    }
    try {
        ok(harness_log_on(guest.get()));
        right = Migration(guest.get()).migrate();
        if (!right)
            harness_explain(guest.get());
    } catch (const Error &error) {
        std::printf("ended with %d (%s)\n", error.code, error.what());
    } catch (const std::exception &error) {
        std::printf("ended (%s)\n", error.what());
    }
    harness_suspend(guest.get());
    harness_log_off(guest.get());
    const char *harm = harness_harm(guest.get());
    std::printf("%s %llu: %s%s\n", scenario.c_str(), static_cast<unsigned long long>(seed),
                right && !harm ? "identical" : "WRONG ", harm ? harm : "");
    return !right || harm;
}
