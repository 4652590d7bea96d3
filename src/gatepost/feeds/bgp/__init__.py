"""Address tables fed by BGP route servers, as OpenBGPD and bgp-spamd do it: bgpd.conf, filters, tables, bgpctl."""
