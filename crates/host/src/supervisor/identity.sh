# Makes a system that goes on in another one's memory one of its own.
#
# $1: its name; $2: its machine id; $3: what nobody else knows, for its random numbers; then for each network card four words: the hardware
# address that the system knows, the one that the card has now, the IPv4 address with its prefix's length, and the router, each - if the host
# gives none.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH
name=$1
machine=$2
printf '%s' "$3" >/dev/urandom
shift 3
status=0

have() {
    command -v "$1" >/dev/null 2>&1
}

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

# The cards first: nothing that it sends passes before. What the host knows of addresses is set at once, whatever asks for them later; every
# program that is run here costs, so the shell does what it can.
interfaces= addressed=" "
while [ $# -ge 4 ]; do
    for place in /sys/class/net/*; do
        # Not what is made over a card and has its address.
        [ -e "$place/device" ] && read -r known <"$place/address" && [ "$known" = "$1" ] || continue
        interface=${place##*/}
        interfaces="$interfaces $interface"
        # What it was given belongs to the other one.
        routes=$(ip -4 route show dev "$interface")
        try ip address flush dev "$interface" scope global
        if [ "$3" != - ] && [ "$routes" ]; then
            try ip address add "$3" dev "$interface"
            addressed="$addressed$interface "
        fi
        # Its neighbours are told: who has asked in vain asks again only after a second.
        notify=/proc/sys/net/ipv4/conf/$interface/arp_notify
        read -r before <"$notify"
        echo 1 >"$notify"
        hardware_address "$interface" "$2"
        echo "$before" >"$notify"
        if [ "$4" != - ]; then
            case $routes in
            *default*) try ip route add default via "$4" dev "$interface" ;;
            esac
        fi
        # Its own link-local address comes of the hardware address when IPv6 begins.
        ipv6=/proc/sys/net/ipv6/conf/$interface/disable_ipv6
        if [ -e "$ipv6" ] && read -r off <"$ipv6" && [ "$off" = 0 ]; then
            echo 1 >"$ipv6"
            echo 0 >"$ipv6"
        fi
    done
    shift 4
done

try hostname "$name"
if [ -e /etc/hostname ]; then echo "$name" >/etc/hostname; fi
if [ -e /etc/hosts ]; then try sed -i "s/^127\.0\.1\.1[[:space:]].*/127.0.1.1 $name/" /etc/hosts; fi
for file in /etc/machine-id /var/lib/dbus/machine-id; do
    if [ -s "$file" ] && [ ! -h "$file" ]; then echo "$machine" >"$file" || status=1; fi
done

if ls /etc/ssh/ssh_host_*_key >/dev/null 2>&1 && have ssh-keygen; then
    rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
    try ssh-keygen -q -A
    if have systemctl; then systemctl --no-block try-restart ssh sshd 2>/dev/null; fi
fi

# Whoever keeps leases has to ask for one of its own; without such a program, cards are asked for whose address the host does not know.
if have systemctl && systemctl -q is-active systemd-networkd; then
    try systemctl --no-block restart systemd-networkd
elif have systemctl && systemctl -q is-active NetworkManager; then
    try systemctl --no-block restart NetworkManager
else
    for interface in $interfaces; do
        if have ifup && ifquery "$interface" >/dev/null 2>&1; then
            ifdown --force "$interface" 2>/dev/null
            try ifup "$interface"
        elif [ "${addressed#* "$interface" }" != "$addressed" ]; then
            continue
        elif have dhclient; then
            try dhclient -1 "$interface"
        elif have udhcpc; then
            try udhcpc -q -n -i "$interface" >/dev/null 2>&1
        fi
    done
fi
exit $status
