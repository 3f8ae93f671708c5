/* SPDX-License-Identifier: MIT OR Apache-2.0
 * flavour DOMID linear|tree: selects which of its p2ms a guest publishes.
 *   linear: before it is started (xl create -p): sets SIF_VIRT_P2M_4TOOLS, with which Linux makes no tree.
 *   tree:   while it runs: hides the linear list, by a 0 in p2m_cr3 of its shared_info.
 * flavour DOMID poke OFFSET VALUE: writes a word of its shared_info, as a hostile guest may at any time. Prints the old one.
 * flavour DOMID word FRAME INDEX VALUE: the same for any of its frames, such as an entry of its p2m.
 * flavour DOMID m2p FRAME PFN: writes the m2p of one of its frames, as every PV guest may. DOMID 0 is this domain. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <xencall.h>
#include <xenctrl.h>
#include <xenforeignmemory.h>

static xenforeignmemory_handle *memory;

static void *map(uint32_t domid, xen_pfn_t frame)
{
	int error = 0;
	void *page = xenforeignmemory_map(memory, domid, PROT_READ | PROT_WRITE, 1, &frame, &error);
	if (!page || error) {
		fprintf(stderr, "flavour: frame %lx can't be mapped (%d)\n", (unsigned long)frame, error);
		exit(1);
	}
	return page;
}

/* A machine-to-physical update, like xenctrl's, which is not exported. */
static int set_m2p(uint32_t domid, unsigned long frame, unsigned long pfn)
{
	xencall_handle *call = xencall_open(0, 0);
	mmu_update_t *update = call ? xencall_alloc_buffer(call, sizeof *update) : NULL;
	if (!update)
		return -1;
	update->ptr = (uint64_t)frame << 12 | MMU_MACHPHYS_UPDATE;
	update->val = pfn;
	return xencall4(call, __HYPERVISOR_mmu_update, (uintptr_t)update, 1, 0, domid ? domid : DOMID_SELF);
}

static void poke(uint32_t domid, unsigned long frame, unsigned long index, const char *value)
{
	volatile unsigned long *word = (unsigned long *)map(domid, frame) + index % 512;
	printf("0x%lx\n", *word);
	*word = strtoul(value, 0, 0);
}

int main(int argc, char **argv)
{
	xc_interface *xen = xc_interface_open(0, 0, 0);
	memory = xenforeignmemory_open(0, 0);
	uint32_t domid = argc >= 3 ? strtoul(argv[1], 0, 10) : 0;
	if (argc == 5 && !strcmp(argv[2], "m2p"))
		return set_m2p(domid, strtoul(argv[3], 0, 0), strtoul(argv[4], 0, 0)) ? perror("flavour: m2p"), 1 : 0;
	xc_dominfo_t info;
	if (!domid || !xen || !memory || xc_domain_getinfo(xen, domid, 1, &info) != 1 || info.domid != domid)
		return perror("flavour"), 1;
	if (!strcmp(argv[2], "poke") && argc == 5)
		return poke(domid, info.shared_info_frame, strtoul(argv[3], 0, 0) / 8, argv[4]), 0;
	if (!strcmp(argv[2], "word") && argc == 6)
		return poke(domid, strtoul(argv[3], 0, 0), strtoul(argv[4], 0, 0), argv[5]), 0;
	if (!strcmp(argv[2], "tree")) {
		shared_info_t *shared = map(domid, info.shared_info_frame);
		shared->arch.p2m_cr3 = 0;
		return 0;
	}
	vcpu_guest_context_any_t vcpu;
	if (xc_vcpu_getcontext(xen, domid, 0, &vcpu))
		return perror("flavour"), 1;
	/* A PV guest begins with the address of its start_info in this register. */
	start_info_t *start = map(domid, xc_translate_foreign_address(xen, domid, 0, vcpu.x64.user_regs.rsi));
	if (strncmp(start->magic, "xen-", 4))
		return fprintf(stderr, "flavour: no start_info\n"), 1;
	start->flags |= SIF_VIRT_P2M_4TOOLS;
	return 0;
}
