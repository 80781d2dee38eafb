# What both scripts begin with that make a system one of its own.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH
status=0

try() {
    "$@" || { echo "cannot: $*" >&2; status=1; }
}

# Takes the IPv4 address $3 of the other one from the interface $1; if it is not known, or not what it has, all of them but $2. That one stays although
# it came after them.
only_address() {
    promote=/proc/sys/net/ipv4/conf/$1/promote_secondaries
    read -r before <"$promote"
    echo 1 >"$promote"
    if [ "$3" = - ] || [ "$3" = "$2" ] || ! ip address del "$3" dev "$1" 2>/dev/null; then
        addresses=$(ip -4 -o address show dev "$1" scope global)
        while read -r number name family address rest; do
            [ -z "$address" ] || [ "$address" = "$2" ] || try ip address del "$address" dev "$1"
        done <<END
$addresses
END
    fi
    echo "$before" >"$promote"
}
