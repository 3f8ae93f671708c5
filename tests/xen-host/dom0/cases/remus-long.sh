# SPDX-License-Identifier: MIT OR Apache-2.0
# The same as migrate-remus with 200 checkpoints. Not among the cases that are run by default.
checkpoints=200
. /host/cases/migrate-remus.sh
