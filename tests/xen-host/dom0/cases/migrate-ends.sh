# SPDX-License-Identifier: MIT OR Apache-2.0
# libxl goes away at every step, or refuses to suspend the guest: a program stands in for it.
VCPUS=2 shared moved 128 128 "memory=12:500"
says moved 'MEMORY ok' 60
domain=$(xl domid moved)
for way in gone-live gone-asked gone-suspended gone-whole refuses stays stays-dead remus-first remus-later remus-stops; do
    xen-libxl $domain $way
done
goes_on moved
is_off
[ -z "$(running save-helper)" ]
