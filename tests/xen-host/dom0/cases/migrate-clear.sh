# SPDX-License-Identifier: MIT OR Apache-2.0
# The same as migrate-grants, and then what is mapped at suspend is cleared. Not among the cases that are
# run by default.
. /host/cases/migrate-grants.sh
# Its new ID has grants of its own.
grant $domain 24 >refs &
sleep 1
tells g "grants $(tr ':' ' ' <refs)"
tells g hold
until [ $(grep -c 'GRANTS held' $(console g)) = 1 ]; do sleep 0.1; done
migrate g '--foreign-pte clear'
arrived g
[ "$(field g.json cleared_ptes)" -ge 24 ]
echo "SHOW cleared: $(field g.json cleared_ptes) PTEs"
