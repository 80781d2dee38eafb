# Gives the cards of a system that goes on in another one's memory their addresses: the first part of what makes it one of its own.
#
# $1: what nobody else knows, for its random numbers; then for each network card six words: the hardware address that the system knows, the
# one that the card has now, the IPv4 address with its prefix's length, and the router, each - if the host gives none, whether it may send
# from whatever address (yes or no), and the other one's IPv4 address with its prefix's length, - if the host knows of none. Says of each interface
# which address it has been given, - if none. What has been done before is done again without harm: a run for which the host waits no more may still
# come to it.
own_random_numbers "$1"
shift

# Has ip do each of these: all by one program, where it is the one that can (iproute2).
ips() {
    if [ -d /etc/iproute2 ] || [ -d /usr/share/iproute2 ]; then
        # Written here, for what writes into a pipe would be another process.
        orders=
        for order in "$@"; do
            orders="$orders$order
"
        done
        ip -batch - <<END
$orders
END
    else
        # Each is several words.
        for order in "$@"; do ip $order || return; done
    fi
}

# Has ip do the orders after $2 and gives the interface $1 the hardware address $2: while it is up if its driver can, because a card that comes up
# anew is deaf for a moment. Its neighbours are told: who has asked in vain asks again only after a second.
hardware_address() {
    interface=$1 own=$2
    shift 2
    notify=/proc/sys/net/ipv4/conf/$interface/arp_notify
    read -r before <"$notify"
    echo 1 >"$notify"
    if ! ips "$@" "link set dev $interface address $own" 2>/dev/null; then
        if [ $# -gt 0 ]; then try ips "$@"; fi
        read -r flags <"/sys/class/net/$interface/flags"
        try ip link set dev "$interface" down
        try ip link set dev "$interface" address "$own"
        if [ $((flags & 1)) = 1 ]; then try ip link set dev "$interface" up; fi
    fi
    echo "$before" >"$notify"
}

# The number as which the kernel tells of the IPv4 address $1 (proc_net_route), in this processor's order of bytes.
number_of() {
    number=
    [ "$1" != - ] || return
    IFS=.
    set -- $1
    unset IFS
    number=$(($1 | $2 << 8 | $3 << 16 | $4 << 24))
}

# Whether the interface $1 has IPv4 routes; the metric of its first default one, - if there is none. It is read here, because whatever program is
# run takes longer, but no further than it has to be: each byte is a system call.
routed() {
    has=no metric=-
    while read -r name to gateway flags references uses own mask rest; do
        [ "$name" = "$1" ] || continue
        has=yes
        [ "$to$mask" = 0000000000000000 ] || continue
        metric=$own
        break
    done </proc/net/route
}

# Whether a default route of the interface $1 leads to the router whose number is $2, and the metrics of those that do not. Default ones are
# told first.
defaults_of() {
    leads=no others=
    while read -r name to gateway flags references uses own mask rest; do
        [ "$name" != Iface ] || continue
        [ "$to" = 00000000 ] || break
        [ "$name$mask" = "${1}00000000" ] || continue
        if [ $((0x$gateway)) = "$2" ]; then leads=yes; else others="$others $own"; fi
    done </proc/net/route
}

# Has the default route of the interface $1, if it had one with the metric $3, lead to the router $2. That of the other one may have gone with its
# address, or lead elsewhere. Other interfaces' routes stay, whatever their metrics are.
route_through() {
    number_of "$2"
    defaults_of "$1" "$number"
    if [ "$2" != - ] && [ "$3" != - ] && [ "$leads" = no ]; then
        try ip route append default via "$2" dev "$1" metric "$3"
    fi
    # The kernel takes the oldest that fits.
    for own in $others; do try ip route del default dev "$1" metric "$own"; done
}

# Its own link-local address comes of the hardware address when IPv6 begins. Of a file like this a shell that reads byte by byte gets no end of
# the line, and says that it has failed.
link_local_address() {
    ipv6=/proc/sys/net/ipv6/conf/$1/disable_ipv6
    off=1
    if [ -e "$ipv6" ]; then read -r off <"$ipv6"; fi
    if [ "$off" = 0 ]; then
        echo 1 >"$ipv6"
        echo 0 >"$ipv6"
    fi
}

# Nothing that it sends passes before. What the host knows of addresses is set at once, whatever asks for them later, and before what the
# interface was given as another one is taken away: somebody may wait for an answer. One whose frames nobody checks loses that first, or its
# neighbours would be told that the other one's address is here, and all that it has: any of them would be answered for.
while [ $# -ge 6 ]; do
    for place in /sys/class/net/*; do
        # Not what is made over a card and has its address.
        [ -e "$place/device" ] && read -r known <"$place/address" || continue
        [ "$known" = "$1" ] || [ "$known" = "$2" ] || continue
        interface=${place##*/}
        given=-
        routed "$interface"
        default=$metric
        replace=
        if [ "$3" != - ] && [ "$has" = yes ]; then
            # It may have been the other one's before.
            replace="address replace $3 dev $interface"
            given=$3
        elif [ "$known" = "$1" ]; then
            # What it was given belongs to the other one.
            try ip address flush dev "$interface" scope global
        fi
        if [ "$given" != - ] && [ "$5" = yes ]; then
            try ips "$replace"
            only_address "$interface" "$3" -
            replace=
        fi
        # Its neighbours are told in any case: the host takes what it sends then as a word that it knows who it is.
        if [ "$known" = "$1" ] || [ "$given" != - ]; then hardware_address "$interface" "$2" ${replace:+"$replace"}; fi
        if [ "$given" != - ] && [ "$5" = no ]; then only_address "$interface" "$3" "$6"; fi
        if [ "$given" != - ] || [ "$known" = "$1" ]; then route_through "$interface" "$4" "$default"; fi
        if [ "$known" = "$1" ]; then link_local_address "$interface"; fi
        echo "$interface $given"
    done
    shift 6
done
exit $status
