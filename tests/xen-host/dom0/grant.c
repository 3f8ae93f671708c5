/* SPDX-License-Identifier: MIT OR Apache-2.0
 * grant DOMID COUNT: grants pages of this domain to another one, writable, prints their references and keeps the grants. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <xen/gntalloc.h>

int main(int argc, char **argv)
{
	int device = open("/dev/xen/gntalloc", O_RDWR);
	unsigned count = argc == 3 ? strtoul(argv[2], 0, 10) : 0;
	struct ioctl_gntalloc_alloc_gref *grant = calloc(1, sizeof *grant + count * sizeof(uint32_t));
	if (device < 0 || !count || !grant)
		return perror("grant"), 1;
	grant->domid = strtoul(argv[1], 0, 10);
	grant->flags = GNTALLOC_FLAG_WRITABLE;
	grant->count = count;
	if (ioctl(device, IOCTL_GNTALLOC_ALLOC_GREF, grant))
		return perror("grant"), 1;
	for (unsigned i = 0; i < count; i++)
		printf("%s%u", i ? ":" : "", grant->gref_ids[i]);
	printf("\n");
	fflush(stdout);
	for (;;)
		pause();
}
