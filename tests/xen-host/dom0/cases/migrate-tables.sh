# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest that makes and drops page tables all the time: it begins and ends processes.
shared listed 128 128 "memory=12:500 forks"
says listed 'MEMORY ok' 60
# What the stock receiver leaked before is in no p2m.
migrate listed '--unaccounted report'
some listed.json tables
arrived listed
balloons listed 128 $leaked
