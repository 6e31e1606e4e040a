#!/bin/sh
# openvpn calls: eql-up.sh tap_dev tap_mtu link_mtu ifconfig_local ifconfig_netmask init
ifconfig $1 up
case "$1" in
	tap0)	SPEED=500000 ;;
	tap1)	SPEED=2000000 ;;
esac
eql_enslave eql $1 $SPEED
