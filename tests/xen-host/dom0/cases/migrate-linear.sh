# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest that publishes only the linear list, and whose balloon moves all the time.
guest listed 128 128 "memory=12:500 forks" -p
flavour $domain linear
xl unpause listed
says listed 'MEMORY ok' 60
(for mib in 110 128 100 128; do sleep 1; target listed $mib; done) &
migrate listed '--rate 32MiB'
wait $!
arrived listed
balloons listed 128 $leaked
