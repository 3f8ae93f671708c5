/* SPDX-License-Identifier: MIT OR Apache-2.0
 * grantmap DOMID REF...: repeatedly maps pages that another domain granted, as a backend does, and unmaps them
 * after a while; each time the p2m of this guest changes. Prints once a turn how many it has mapped. Lines on standard
 * input: "hold": what is mapped stays so; "release": it is unmapped, and nothing is mapped any more; "cycle": again from
 * the start; "grants REF...": these from now on, again. */
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
/* The header takes these from the kernel. */
typedef uint32_t grant_ref_t;
typedef uint16_t domid_t;
#include <xen/gntdev.h>

enum { REFS = 64, PAGE = 4096 };

static unsigned refs[REFS], count;

static void take(char *words)
{
	count = 0;
	for (char *word = strtok(words, " \n"); word && count < REFS; word = strtok(0, " \n"))
		refs[count++] = strtoul(word, 0, 10);
}

/* The first letter of the last line, or what it was before. */
static char told(char before)
{
	struct pollfd in = { .fd = 0, .events = POLLIN };
	char line[1024];
	while (poll(&in, 1, 0) == 1) {
		ssize_t length = read(0, line, sizeof line - 1);
		if (length <= 0)
			break;
		line[length] = 0;
		before = line[0];
		if (before == 'g')
			take(line + sizeof "grants" - 1);
	}
	return before;
}

int main(int argc, char **argv)
{
	int device = open("/dev/xen/gntdev", O_RDWR);
	for (int i = 2; i < argc && count < REFS; i++)
		refs[count++] = strtoul(argv[i], 0, 10);
	if (device < 0 || !count)
		return perror("grantmap"), 1;
	struct ioctl_gntdev_map_grant_ref *map = calloc(1, sizeof *map + REFS * sizeof map->refs[0]);
	char word = 'c';
	for (unsigned turn = 0;; turn++) {
		while ((word = told(word)) == 'r')
			usleep(100000);
		map->count = count;
		for (unsigned i = 0; i < count; i++) {
			map->refs[i].domid = strtoul(argv[1], 0, 10);
			map->refs[i].ref = refs[i];
		}
		if (ioctl(device, IOCTL_GNTDEV_MAP_GRANT_REF, map))
			return perror("map"), 1;
		volatile uint32_t *page = mmap(0, count * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, device, map->index);
		if (page == MAP_FAILED)
			return perror("mmap"), 1;
		for (unsigned i = 0; i < count; i++)
			page[i * PAGE / 4] += turn;
		printf("GRANTS mapped %u turn %u\n", count, turn);
		fflush(stdout);
		usleep(700000);
		if ((word = told(word)) == 'h') {
			printf("GRANTS held\n");
			fflush(stdout);
			while ((word = told(word)) == 'h')
				usleep(100000);
		}
		munmap((void *)page, count * PAGE);
		struct ioctl_gntdev_unmap_grant_ref unmap = { .index = map->index, .count = count };
		if (ioctl(device, IOCTL_GNTDEV_UNMAP_GRANT_REF, &unmap))
			return perror("unmap"), 1;
		if ((word = told(word)) == 'r') {
			printf("GRANTS released\n");
			fflush(stdout);
		}
		usleep(300000);
	}
}
