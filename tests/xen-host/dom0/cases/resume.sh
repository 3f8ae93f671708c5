# SPDX-License-Identifier: MIT OR Apache-2.0
# The guest is suspended and resumed while it is tracked, as for a checkpoint: it rewrites its lists
# and sets its generation to 0. Before that growth changes the generation, so that the reset is
# visible.
shared grown 192 192 "memory=48:500"
says grown 'MEMORY ok' 60
xl mem-max grown 576
target grown 512 # this changes the generation
turn=0
until [ "$(xl list grown | awk 'NR == 2 {print $3}')" -ge 500 ] || [ $turn -ge 40 ]; do sleep 0.5; turn=$((turn + 1)); done
sleep 1
(
    sleep 2
    xen-ports $domain suspend >suspend.log 2>&1
    sleep 3
    xen-ports $domain suspend >>suspend.log 2>&1
) &
helper=$!
track resume.json --seconds 11 --interval 300
wait $helper
cat suspend.log
[ "$(grep -c '^resumed' suspend.log)" = 2 ]
show resume.json
tail -n 1 resume.json | grep -q '"generation":[1-9]'
words=$(grep -c 'MEMORY ok' $(console grown))
sleep 3
[ "$(grep -c 'MEMORY ok' $(console grown))" -gt $words ] # it runs on
is_off
