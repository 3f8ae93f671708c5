/* SPDX-License-Identifier: MIT OR Apache-2.0
 * grantmap DOMID REF...: repeatedly maps pages that another domain granted, as a backend does, and unmaps them
 * after a while; each time the p2m of this guest changes. Prints once a turn how many it has mapped. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
/* The header takes these from the kernel. */
typedef uint32_t grant_ref_t;
typedef uint16_t domid_t;
#include <xen/gntdev.h>

enum { REFS = 64, PAGE = 4096 };

int main(int argc, char **argv)
{
	int device = open("/dev/xen/gntdev", O_RDWR), count = argc - 2;
	if (device < 0 || count < 1 || count > REFS)
		return perror("grantmap"), 1;
	struct ioctl_gntdev_map_grant_ref *map = calloc(1, sizeof *map + REFS * sizeof map->refs[0]);
	for (unsigned turn = 0;; turn++) {
		map->count = count;
		for (int i = 0; i < count; i++) {
			map->refs[i].domid = strtoul(argv[1], 0, 10);
			map->refs[i].ref = strtoul(argv[i + 2], 0, 10);
		}
		if (ioctl(device, IOCTL_GNTDEV_MAP_GRANT_REF, map))
			return perror("map"), 1;
		volatile uint32_t *page = mmap(0, count * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, device, map->index);
		if (page == MAP_FAILED)
			return perror("mmap"), 1;
		for (int i = 0; i < count; i++)
			page[i * PAGE / 4] += turn;
		printf("GRANTS mapped %d turn %u\n", count, turn);
		fflush(stdout);
		usleep(700000);
		munmap((void *)page, count * PAGE);
		struct ioctl_gntdev_unmap_grant_ref unmap = { .index = map->index, .count = count };
		if (ioctl(device, IOCTL_GNTDEV_UNMAP_GRANT_REF, &unmap))
			return perror("unmap"), 1;
		usleep(300000);
	}
}
