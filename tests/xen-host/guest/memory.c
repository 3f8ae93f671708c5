/* SPDX-License-Identifier: MIT OR Apache-2.0
 * memory MIB RATE [keep]: holds memory with a different pattern in every page, rewrites RATE pages a second (every fourth
 * after freeing it to the kernel, so that it returns on another frame; none with "keep") and verifies all the time. Once a second it
 * prints "MEMORY ok" with the number of pages verified, which also shows the guest's speed; BAD if a page is wrong.
 * Integers only: a damaged FPU state can't affect it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8 };

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static uint64_t seed(uint64_t page, uint64_t generation)
{
	return mix(page * 0x9e3779b97f4a7c15u + generation);
}

static void fill(uint64_t *words, uint64_t first)
{
	for (unsigned i = 0; i < WORDS; i++)
		words[i] = first + i * 0x2545f4914f6cdd1du;
}

static int is_right(const uint64_t *words, uint64_t first)
{
	for (unsigned i = 0; i < WORDS; i++)
		if (words[i] != first + i * 0x2545f4914f6cdd1du)
			return 0;
	return 1;
}

static int64_t now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000ll + t.tv_nsec / 1000;
}

int main(int argc, char **argv)
{
	uint64_t pages = (argc > 1 ? strtoull(argv[1], 0, 10) : 32) * 256, rate = argc > 2 ? strtoull(argv[2], 0, 10) : 1000;
	char *memory = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int keep = argc > 3;
	uint32_t *generation = calloc(pages, sizeof *generation);
	if (memory == MAP_FAILED || !generation)
		return perror("memory"), 1;
	madvise(memory, pages * PAGE, MADV_NOHUGEPAGE);
	for (uint64_t i = 0; i < pages; i++)
		fill((uint64_t *)(memory + i * PAGE), seed(i, 0));
	uint64_t dice = 12345, verified = 0, bad = 0, next = 0;
	int64_t reported = now_us(), wrote = reported;
	for (;;) {
		int64_t now = now_us(), since = now - wrote;
		if (since > 100000)
			since = 100000; /* was suspended: don't catch up */
		uint64_t due = (uint64_t)since * rate / 1000000;
		if (due)
			wrote = now;
		while (due--) {
			dice = mix(dice + 0x9e3779b97f4a7c15u);
			uint64_t i = dice % pages;
			if (keep || dice >> 40 & 3) {
				fill((uint64_t *)(memory + i * PAGE), seed(i, ++generation[i]));
				continue;
			}
			madvise(memory + i * PAGE, PAGE, MADV_DONTNEED);
			fill((uint64_t *)(memory + i * PAGE), seed(i, ++generation[i]));
		}
		for (int k = 0; k < 64; k++, next = (next + 1) % pages, verified++) {
			uint64_t *words = (uint64_t *)(memory + next * PAGE);
			if (is_right(words, seed(next, generation[next])))
				continue;
			if (bad++ < 20)
				printf("MEMORY BAD page %llu\n", (unsigned long long)next);
			fill(words, seed(next, generation[next]));
		}
		if (now - reported >= 1000000) {
			printf("MEMORY ok %llu us %lld bad %llu\n", (unsigned long long)verified, (long long)(now - reported),
			       (unsigned long long)bad);
			fflush(stdout);
			reported = now;
			verified = 0;
		}
	}
}
