# Gives the cards of a system that goes on in another one's memory their addresses: the first part of what makes it one of its own.
#
# $1: what nobody else knows, for its random numbers; then for each network card four words: the hardware address that the system knows, the
# one that the card has now, the IPv4 address with its prefix's length, and the router, each - if the host gives none. Says of each
# interface whether it has been given an address.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH
printf '%s' "$1" >/dev/urandom
shift
status=0

try() {
    "$@" || { echo "cannot: $*" >&2; status=1; }
}

# Gives the interface $1 the hardware address $2: while it is up if its driver can, because a card that comes up anew is deaf for a moment.
hardware_address() {
    ip link set dev "$1" address "$2" 2>/dev/null && return
    read -r flags <"/sys/class/net/$1/flags"
    try ip link set dev "$1" down
    try ip link set dev "$1" address "$2"
    if [ $((flags & 1)) = 1 ]; then try ip link set dev "$1" up; fi
}

# Whether the interface $1 has IPv4 routes, and a default one (proc_net_route). It is read here, because whatever program is run takes
# longer than all of this.
routes_of() {
    has=no default=no
    while read -r name to gateway flags references uses metric mask rest; do
        [ "$name" = "$1" ] || continue
        has=yes
        if [ "$to$mask" = 0000000000000000 ]; then default=yes; fi
    done </proc/net/route
}

# Takes all IPv4 addresses of the interface $1 but $2 away, which stays although it came after them.
only_address() {
    promote=/proc/sys/net/ipv4/conf/$1/promote_secondaries
    read -r before <"$promote"
    echo 1 >"$promote"
    addresses=$(ip -4 -o address show dev "$1" scope global)
    while read -r number name family address rest; do
        [ -z "$address" ] || [ "$address" = "$2" ] || try ip address del "$address" dev "$1"
    done <<END
$addresses
END
    echo "$before" >"$promote"
}

# Nothing that it sends passes before. What the host knows of addresses is set at once, whatever asks for them later, and before what the
# interface was given as another one is taken away: somebody may wait for an answer.
while [ $# -ge 4 ]; do
    for place in /sys/class/net/*; do
        # Not what is made over a card and has its address.
        [ -e "$place/device" ] && read -r known <"$place/address" && [ "$known" = "$1" ] || continue
        interface=${place##*/}
        given=no
        routes_of "$interface"
        if [ "$3" != - ] && [ "$has" = yes ]; then
            # It may have been the other one's before.
            try ip address replace "$3" dev "$interface"
            given=yes
        else
            # What it was given belongs to the other one.
            try ip address flush dev "$interface" scope global
        fi
        # Its neighbours are told: who has asked in vain asks again only after a second.
        notify=/proc/sys/net/ipv4/conf/$interface/arp_notify
        read -r before <"$notify"
        echo 1 >"$notify"
        hardware_address "$interface" "$2"
        echo "$before" >"$notify"
        if [ "$given" = yes ]; then
            only_address "$interface" "$3"
            if [ "$4" != - ] && [ "$default" = yes ]; then try ip route replace default via "$4" dev "$interface"; fi
        fi
        # Its own link-local address comes of the hardware address when IPv6 begins. Of a file like this a shell that reads byte by byte
        # gets no end of the line, and says that it has failed.
        ipv6=/proc/sys/net/ipv6/conf/$interface/disable_ipv6
        off=1
        if [ -e "$ipv6" ]; then read -r off <"$ipv6"; fi
        if [ "$off" = 0 ]; then
            echo 1 >"$ipv6"
            echo 0 >"$ipv6"
        fi
        echo "$interface $given"
    done
    shift 4
done
exit $status
