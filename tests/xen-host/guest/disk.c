/* SPDX-License-Identifier: MIT OR Apache-2.0
 * disk DEVICE: reads and writes a block device all the time, past the page cache, and verifies: each block has the pattern
 * of its last write, and so has each page that the backend filled, also long after it was read. Once a second it prints
 * "DISK ok" with the number of blocks; "DISK BAD" if one is wrong. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, BLOCKS = 2048, PAGES = 512 };

static uint32_t generation[BLOCKS];
static struct { uint32_t block, generation; } held[PAGES];

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static uint64_t word(uint32_t block, uint32_t generation, unsigned at)
{
	return mix(((uint64_t)block << 32 | generation) + 1) + at * 0x2545f4914f6cdd1du;
}

static int is_right(const uint64_t *page, uint32_t block, uint32_t generation)
{
	for (unsigned i = 0; i < WORDS; i++)
		if (page[i] != word(block, generation, i))
			return 0;
	return 1;
}

int main(int argc, char **argv)
{
	int device = argc > 1 ? open(argv[1], O_RDWR | O_DIRECT) : -1;
	uint64_t *pages = aligned_alloc(PAGE, PAGES * PAGE), *out = aligned_alloc(PAGE, PAGE);
	if (device < 0 || !pages || !out)
		return perror("disk"), 1;
	uint64_t dice = 99, done = 0, bad = 0;
	time_t reported = time(0);
	for (uint64_t turn = 0;; turn++) {
		dice = mix(dice + 0x9e3779b97f4a7c15u);
		uint32_t block = turn < BLOCKS ? turn : dice % BLOCKS, at = dice >> 32 & (PAGES - 1);
		generation[block]++;
		for (unsigned i = 0; i < WORDS; i++)
			out[i] = word(block, generation[block], i);
		if (pwrite(device, out, PAGE, (off_t)block * PAGE) != PAGE)
			return perror("DISK BAD write"), 1;
		uint64_t *page = pages + at * WORDS;
		if (held[at].generation && !is_right(page, held[at].block, held[at].generation) && bad++ < 20)
			printf("DISK BAD page of block %u\n", held[at].block);
		if (turn >= BLOCKS)
			block = dice >> 16 & (BLOCKS - 1);
		if (pread(device, page, PAGE, (off_t)block * PAGE) != PAGE)
			return perror("DISK BAD read"), 1;
		held[at].block = block;
		held[at].generation = generation[block];
		if (!is_right(page, block, generation[block]) && bad++ < 20)
			printf("DISK BAD block %u\n", block);
		done++;
		if (time(0) != reported) {
			reported = time(0);
			printf("DISK ok %llu bad %llu\n", (unsigned long long)done, (unsigned long long)bad);
			fflush(stdout);
			done = 0;
		}
	}
}
