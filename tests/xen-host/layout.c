/* SPDX-License-Identifier: MIT OR Apache-2.0
 * Compares the hypervisor's structures as engine/xen assumes them with the headers of the Xen that is run here. A difference
 * does not compile. Sizes and offsets in bytes, as in the tests of engine/xen/src/{domctl,host,grant_table}.rs. */
#include <stddef.h>
#include <stdint.h>
#define __XEN_TOOLS__
#include <xen/domctl.h>
#include <xen/grant_table.h>
#include <xen/io/xs_wire.h>
#include <xen/memory.h>
#include <xen/sched.h>
#include <xen/sysctl.h>
#include <xen/xen.h>

#define IS(what, value) _Static_assert((what) == (value), #what)
#define AT(type, field, value) IS(offsetof(type, field), value)

IS(sizeof(struct xen_domctl), 144);
AT(struct xen_domctl, cmd, 0);
AT(struct xen_domctl, interface_version, 4);
AT(struct xen_domctl, domain, 8);
AT(struct xen_domctl, u, 16);
IS(sizeof(struct xen_domctl_shadow_op), 40);
AT(struct xen_domctl_shadow_op, op, 0);
AT(struct xen_domctl_shadow_op, mode, 4);
AT(struct xen_domctl_shadow_op, dirty_bitmap, 16);
AT(struct xen_domctl_shadow_op, pages, 24);
AT(struct xen_domctl_shadow_op, stats.fault_count, 32);
AT(struct xen_domctl_shadow_op, stats.dirty_count, 36);
AT(struct xen_domctl_getdomaininfo, flags, 4);
AT(struct xen_domctl_getdomaininfo, tot_pages, 8);
AT(struct xen_domctl_getdomaininfo, max_pages, 16);
AT(struct xen_domctl_getdomaininfo, shared_info_frame, 48);
AT(struct xen_domctl_getdomaininfo, max_vcpu_id, 68);
AT(struct xen_domctl_getdomaininfo, handle, 76);
IS(sizeof(struct xen_domctl_vcpucontext), 16);
AT(struct xen_domctl_vcpucontext, ctxt, 8);
IS(sizeof(struct xen_domctl_getpageframeinfo3), 16);
AT(struct xen_domctl_getpageframeinfo3, array, 8);
IS(sizeof(struct xen_domctl_paging_mempool), 8);
IS(sizeof(struct xen_domctl_address_size), 4);

IS(XEN_DOMCTL_getdomaininfo, 5);
IS(XEN_DOMCTL_shadow_op, 10);
IS(XEN_DOMCTL_setvcpucontext, 12);
IS(XEN_DOMCTL_getvcpucontext, 13);
IS(XEN_DOMCTL_resumedomain, 27);
IS(XEN_DOMCTL_get_address_size, 36);
IS(XEN_DOMCTL_getpageframeinfo3, 61);
IS(XEN_DOMCTL_get_paging_mempool_size, 85);
IS(XEN_DOMCTL_SHADOW_OP_OFF, 0);
IS(XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, 2);
IS(XEN_DOMCTL_SHADOW_OP_CLEAN, 11);
IS(XEN_DOMCTL_SHADOW_OP_PEEK, 12);
IS(XEN_DOMINF_dying, 1);
IS(XEN_DOMINF_hvm_guest, 2);
IS(XEN_DOMINF_shutdown, 4);
IS(XEN_DOMINF_paused, 8);
IS(XEN_DOMINF_shutdownshift, 16);
IS(SHUTDOWN_suspend, 2);
IS(XEN_DOMCTL_PFINFO_L4TAB, 4u << 28);
IS(XEN_DOMCTL_PFINFO_LPINTAB, 1u << 31);
IS(XEN_DOMCTL_PFINFO_XTAB, 0xfu << 28);
IS(XEN_DOMCTL_PFINFO_BROKEN, 0xdu << 28);

AT(struct xen_sysctl, u, 8);
IS(XEN_SYSCTL_physinfo, 3);
AT(struct xen_sysctl, u.physinfo.capabilities, 36);
IS(sizeof(struct xen_sysctl), 136);
IS(XEN_SYSCTL_PHYSCAP_pv, 1u << 1);
IS(XEN_SYSCTL_PHYSCAP_shadow, 1u << 4);

IS(sizeof(struct gnttab_query_size), 16);
AT(struct gnttab_query_size, nr_frames, 4);
AT(struct gnttab_query_size, max_nr_frames, 8);
AT(struct gnttab_query_size, status, 12);
IS(GNTTABOP_query_size, 6);
IS(GNTTABOP_get_version, 10);
IS(sizeof(struct gnttab_get_version), 8);
AT(struct gnttab_get_version, version, 4);
IS(sizeof(grant_entry_v1_t), 8);
AT(grant_entry_v1_t, frame, 4);
IS(sizeof(grant_entry_v2_t), 16);
AT(grant_entry_v2_t, full_page.frame, 8);
AT(grant_entry_v2_t, sub_page.frame, 8);
IS(sizeof(grant_status_t), 2);
IS(GTF_type_mask, 3);
IS(GTF_permit_access, 1);
IS(GTF_accept_transfer, 2);
IS(GTF_writing, 1 << 4);
IS(XENMEM_resource_grant_table, 1);
IS(XENMEM_resource_grant_table_id_status, 1);

IS(sizeof(struct xen_machphys_mfn_list), 24);
AT(struct xen_machphys_mfn_list, extent_start, 8);
AT(struct xen_machphys_mfn_list, nr_extents, 16);
IS(XENMEM_maximum_ram_page, 2);
IS(XENMEM_machphys_mfn_list, 5);
IS(XENMEM_machphys_compat_mfn_list, 25);
IS(__HYPERVISOR_memory_op, 12);
IS(__HYPERVISOR_xen_version, 17);
IS(__HYPERVISOR_grant_table_op, 20);
IS(__HYPERVISOR_sysctl, 35);
IS(__HYPERVISOR_domctl, 36);
IS(DOMID_XEN, 0x7ff2);

IS(XS_READ, 2);
IS(XS_WRITE, 11);
IS(XS_ERROR, 16);
IS(XS_RESUME, 18);
IS(sizeof(struct xsd_sockmsg), 16);
AT(struct xsd_sockmsg, len, 12);

AT(vcpu_guest_context_t, user_regs.rax, 600);
AT(vcpu_guest_context_t, user_regs.rdx, 616);
IS(sizeof(vcpu_guest_context_t), 5168);
IS(XEN_DOMCTL_getvcpuinfo, 14);
AT(struct xen_domctl_getvcpuinfo, vcpu, 0);
AT(struct xen_domctl_getvcpuinfo, online, 4);
IS(sizeof(struct xen_domctl_getvcpuinfo), 24);
IS(XEN_DOMCTL_get_ext_vcpucontext, 43);
AT(struct xen_domctl_ext_vcpucontext, vcpu, 0);
AT(struct xen_domctl_ext_vcpucontext, size, 4);
_Static_assert(sizeof(struct xen_domctl_ext_vcpucontext) <= 128, "ext_vcpucontext");
IS(XEN_DOMCTL_gettscinfo, 59);
AT(struct xen_domctl_tsc_info, tsc_mode, 0);
AT(struct xen_domctl_tsc_info, gtsc_khz, 4);
AT(struct xen_domctl_tsc_info, incarnation, 8);
AT(struct xen_domctl_tsc_info, elapsed_nsec, 16);
IS(sizeof(struct xen_domctl_tsc_info), 24);
IS(XEN_DOMCTL_getvcpuextstate, 63);
AT(struct xen_domctl_vcpuextstate, vcpu, 0);
AT(struct xen_domctl_vcpuextstate, xfeature_mask, 8);
AT(struct xen_domctl_vcpuextstate, size, 16);
AT(struct xen_domctl_vcpuextstate, buffer, 24);
IS(sizeof(struct xen_domctl_vcpuextstate), 32);
IS(XEN_DOMCTL_get_vcpu_msrs, 72);
AT(struct xen_domctl_vcpu_msrs, vcpu, 0);
AT(struct xen_domctl_vcpu_msrs, msr_count, 4);
AT(struct xen_domctl_vcpu_msrs, msrs, 8);
IS(sizeof(struct xen_domctl_vcpu_msrs), 16);
IS(sizeof(struct xen_domctl_vcpu_msr), 16);
IS(XEN_DOMCTL_get_cpu_policy, 82);
AT(struct xen_domctl_cpu_policy, nr_leaves, 0);
AT(struct xen_domctl_cpu_policy, nr_msrs, 4);
AT(struct xen_domctl_cpu_policy, leaves, 8);
AT(struct xen_domctl_cpu_policy, msrs, 16);
AT(struct xen_domctl_cpu_policy, err_leaf, 24);
IS(sizeof(xen_cpuid_leaf_t), 24);
IS(sizeof(xen_msr_entry_t), 16);
IS(XENMEM_get_vnumainfo, 26);
AT(struct xen_vnuma_topology_info, domid, 0);
AT(struct xen_vnuma_topology_info, nr_vnodes, 4);
AT(struct xen_vnuma_topology_info, nr_vcpus, 8);
AT(struct xen_vnuma_topology_info, nr_vmemranges, 12);
AT(struct xen_vnuma_topology_info, vdistance, 16);
AT(struct xen_vnuma_topology_info, vmemrange, 32);
IS(sizeof(struct xen_vnuma_topology_info), 40);

AT(start_info_t, store_mfn, 56);
AT(start_info_t, console.domU.mfn, 72);

/* multicall_entry_t has a union of pointers: words 0 to 7. */
IS(__HYPERVISOR_multicall, 13);
IS(__HYPERVISOR_update_va_mapping, 14);
IS(__HYPERVISOR_mmuext_op, 26);
IS(sizeof(multicall_entry_t), 64);
AT(multicall_entry_t, op, 0);
AT(multicall_entry_t, result, 8);
AT(multicall_entry_t, args, 16);
IS(UVMF_TLB_FLUSH | UVMF_ALL, 5);
IS(sizeof(struct mmuext_op), 24);
AT(struct mmuext_op, cmd, 0);
IS(MMUEXT_TLB_FLUSH_ALL, 10);
IS(DOMID_SELF, 0x7ff0);
