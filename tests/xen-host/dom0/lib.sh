# SPDX-License-Identifier: MIT OR Apache-2.0
# Functions for the cases. `sh -e lib.sh CASE` runs one in the current directory: it passes if it
# exits with 0. A line that begins with SHOW is evidence and goes into the summary.
export PATH=/usr/sbin:/usr/bin:/bin:/sbin

guest() { # NAME MIB MAX_MIB "WORDS FOR ITS COMMAND LINE" [XL-CREATE OPTIONS]: makes it, and waits until it is up
    disk=${DISK:+"disk=[\"$DISK\"]"}
    cat >/root/$1.cfg <<END
name="$1"
type="pv"
kernel="${KERNEL:-/host/kernel}"
${KERNEL:+#}ramdisk="/host/guest.cpio.gz"
memory=$2
maxmem=$3
vcpus=${VCPUS:-1}
$disk
extra="console=hvc0 loglevel=4 panic=1 sysrq_always_enabled=1 memhp_default_state=online $4"
on_crash="preserve"
on_reboot="destroy"
on_poweroff="destroy"
END
    xl create -q $5 /root/$1.cfg
    domain=$(xl domid $1)
}

shared() { # NAME MIB MAX_MIB "WORDS": the same, but reuses a running guest of that name
    if domain=$(xl domid $1 2>/dev/null); then return; fi
    guest "$@"
    says $1 'GUEST up' 60
}

disked() { # guest "disked": it writes most of its memory and a disk of 8 MiB, with two vcpus
    [ -e /root/disk ] || dd if=/dev/zero of=/root/disk bs=1M count=8 2>/dev/null
    [ -e /dev/loop0 ] || for module in loop xen-blkback; do insmod /modules/$module.ko; done
    losetup /dev/loop0 >/dev/null 2>&1 || losetup /dev/loop0 /root/disk
    VCPUS=2 DISK=format=raw,vdev=xvda,access=w,script=/host/hotplug,target=/dev/loop0 \
        shared disked 176 176 "memory=48:1000 disk"
    says disked 'DISK ok' 60
    says disked 'MEMORY ok' 60
}

granted() { # MIB "WORDS": guest g, which maps 24 pages of this domain
    # Grants come first, so the guest's domid must be known before it exists.
    guest probe 128 128 "" -p
    next=$((domain + 1))
    xl destroy probe
    grant $next 24 >refs &
    sleep 1
    guest g $1 $1 "$2 grants=0:$(cat refs)"
    [ $domain = $next ]
    says g 'GRANTS mapped' 60
}

tells() { # NAME WORD: a line on the console of a guest
    echo "$2" >$(xenstore-read /local/domain/$(xl domid $1)/console/tty)
}

target() { # NAME MIB: sets the balloon target
    xenstore-write /local/domain/$(xl domid $1)/memory/target $(($2 * 1024))
}

console() { # NAME: a guest that was migrated here has the console of the name that it came by
    if [ -e /root/$1.moved ]; then echo /var/log/xen/console/guest-$1--incoming.log; else echo /var/log/xen/console/guest-$1.log; fi
}

says() { # NAME PATTERN SECONDS: waits until the guest's console has it
    turn=0
    until grep -q "$2" $(console $1) 2>/dev/null; do
        [ $turn -lt $(($3 * 10)) ] || { echo "guest $1 does not say '$2'"; tail -n 5 $(console $1); return 1; }
        sleep 0.1
        turn=$((turn + 1))
    done
}

field() { # FILE KEY: the last number of that name in the last line
    tail -n 1 $1 | sed -n "s/.*\"$2\":\([0-9]*\).*/\1/p"
}

track() { # FILE OPTIONS...: the engine on $domain; its lines go to FILE
    file=$1
    shift
    p2mtrack track $domain --json --check "$@" >$file || {
        code=$?
        [ $code != 1 ] || show $file || true # a missed change: show how many
        return $code
    }
}

show() { # FILE: what a run found, and that nothing was missed
    echo "SHOW $1: rounds $(field $1 rounds) leaves_dirty $(field $1 leaves_dirty) leaves_new $(field $1 leaves_new)" \
        "entries_changed $(field $1 entries_changed) beyond_log_dirty $(field $1 beyond_log_dirty)" \
        "structure_events $(field $1 structure_events) missed $(field $1 missed) unchecked $(field $1 unchecked)"
    [ "$(field $1 missed)" = 0 ] && [ $((4 * $(field $1 unchecked))) -le "$(field $1 rounds)" ]
}

some() { # FILE KEY: the number is not 0
    [ "$(field $1 $2)" -gt 0 ] || { echo "$1: no $2"; return 1; }
}

fails() { # COMMAND...: it must not succeed ("set -e" ignores the status of a command after "!")
    if "$@"; then
        echo "succeeds: $*"
        return 1
    fi
}

running() { # WORDS: processes with these words on their command line
    ps -o pid,args | grep "$*" | grep -v grep | awk '{print $1}'
}

is_off() { # log-dirty of $domain is off and not claimed: a tracker may begin, and finds nothing to clean up
    p2mtrack track $domain --rounds 0 --json >off.json 2>off.err || { cat off.err; return 1; }
    fails grep . off.err && [ -z "$(ls /run/p2mtrack)" ] && [ "$(xen-ports $domain state)" = off ]
}

checks() { grep -c 'MEMORY ok' $(console $1) || true; } # NAME: how often its memory was right

goes_on() { # NAME: its memory is checked twice more, and nothing was ever wrong
    before=$(checks $1) turn=0
    until [ $(checks $1) -ge $((before + 2)) ]; do
        [ $turn -lt 900 ] || { echo "guest $1 does not go on"; tail -n 5 $(console $1); return 1; }
        sleep 0.1
        turn=$((turn + 1))
    done
    fails grep -E '(MEMORY|FPU|DISK) BAD' $(console $1)
}

holds() { # NAME KIB [LEAKED]: its frames, without so many, come to that target
    target $1 $(($2 / 1024))
    turn=0
    while :; do
        frames=$(($(xen-ports $(xl domid $1) frames) - ${3:-0}))
        [ $((frames * 4 - $2)) -gt 1024 ] || [ $(($2 - frames * 4)) -gt 1024 ] || break
        [ $turn -lt 300 ] || { echo "guest $1 holds $frames frames, not $2 KiB"; return 1; }
        sleep 0.1
        turn=$((turn + 1))
    done
}

balloons() { # NAME MIB [LEAKED]: down and up again
    holds $1 $((($2 - 12) * 1024)) $3
    holds $1 $(($2 * 1024)) $3
}

swings() { # NAME: its own balloon goes down and up, by 8 MiB at least
    id=$(xl domid $1)
    low=$(xen-ports $id frames) down='' up='' turn=0
    high=$low
    until [ -n "$down" ] && [ -n "$up" ]; do
        [ $turn -lt 600 ] || { echo "guest $1 holds between $low and $high frames"; return 1; }
        frames=$(xen-ports $id frames)
        [ $frames -gt $((high - 2048)) ] || down=yes
        [ $frames -lt $((low + 2048)) ] || up=yes
        [ $frames -ge $low ] || low=$frames
        [ $frames -le $high ] || high=$frames
        sleep 0.1
        turn=$((turn + 1))
    done
}

roomy() { # NAME: what a stock receiver leaks counts against its limit, and a balloon that is refused waits long
    most=$(($(xen-ports $(xl domid $1) frames) / 256)) wanted=$(($(xenstore-read /local/domain/$(xl domid $1)/memory/target) / 1024))
    [ $most -gt $wanted ] || most=$wanted
    xl mem-max $1 $((most + 64))
}

restored() { # NAME FILE: its source is gone, and the stock restore makes it again
    p2mtrack stream check $2 >$2.check || { head $2.check; return 1; }
    xl restore $2
    domain=$(xl domid $1)
    roomy $1
    goes_on $1
}

helped() { # REPORT "OPTIONS" COMMAND...: by our helper
    report=$1 options=$2
    shift 2
    LIBXL_SAVE_HELPER=/usr/bin/p2mtrack-save-helper P2MTRACK_HELPER_OPTIONS="--report $PWD/$report.json $options" \
        "$@" >>$report.log 2>&1
}

migrate() { # NAME "OPTIONS" [OPTIONS OF XL MIGRATE]: live, to this host
    name=$1 options=$2
    shift 2
    helped $name "$options" xl -v migrate -s "" "$@" $name /host/receive
}

arrived() { # NAME [SLACK]: it was migrated, goes on, and holds a frame for each entry and what the report calls leaked
    touch /root/$1.moved
    domain=$(xl domid $1)
    roomy $1
    goes_on $1
    fails grep -i -E "mismatch|verify pfn" /root/receive.log
    tail -n 1 $1.json | grep -q '"error":null' || { cat $1.json; return 1; }
    [ -z "$(ls /run/p2mtrack)" ] && [ -z "$(running save-helper)" ]
    xl pause $1
    held=$(xen-ports $domain frames) entries=$(xen-ports $domain entries) leaked=$(field $1.json leaked_pfns)
    xl unpause $1
    echo "SHOW $1: rounds $(field $1.json rounds) pages $(field $1.json pages) suspended_pages $(field $1.json suspended_pages)" \
        "downtime_us $(field $1.json downtime_us) held $held entries $entries leaked $leaked"
    # A leaked frame has an entry until the guest's balloon, which does not know of it, makes another
    # one. A guest that is paused amid a change of its balloon may hold a batch more, or less.
    beyond=$((held - entries))
    [ $beyond -ge -${2:-0} ] && [ $beyond -le $((leaked + ${2:-0})) ] || { echo "$beyond frames without an entry"; false; }
}

observed() { # NAME REPORT: the same with the stock helper, observed; what came of it
    status=0
    helped $2 --observe timeout 60 xl -v migrate -s "" $1 /host/receive || status=$?
    grep -q '"event":"observed".*"side":"save"' $2.json
    echo "SHOW stock helper: status $status, $(grep '"side":"save"' $2.json | tail -n 1 |
        sed 's/.*"bytes":\([0-9]*\).*"downtime_us":\([0-9a-z]*\).*"retval":\([-0-9]*\).*/bytes \1 downtime_us \2 retval \3/')"
}

. /host/cases/$1.sh
