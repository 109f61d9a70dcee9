//! kswapd, whose thread never leaves the function that the update replaces: hooks stop it in one edition and start it in
//! the other, as `docs/hooks.md` tells it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use crate::common::{SAYS, diff, edit, machine};

/// The thread is stopped before each switch, so that nobody is in `kswapd`, and started after it, in the edition that is
/// current then. What was stopped is started again if the switch is given up.
const HOOKS: &str = r#"
static int kswapd_stop_all(void)
{
	int nid;

	get_online_mems();
	for_each_node_state(nid, N_MEMORY)
		kswapd_stop(nid);
	put_online_mems();
	return 0;
}

static int kswapd_run_all(void)
{
	int nid, ret = 0;

	get_online_mems();
	for_each_node_state(nid, N_MEMORY) {
		kswapd_run(nid);
		if (!READ_ONCE(NODE_DATA(nid)->kswapd))
			ret = -ENOMEM;
	}
	put_online_mems();
	return ret;
}

static __used int dynamos_before_on(void)
{
	return kswapd_stop_all();
}

static __used int dynamos_after_on(void)
{
	return kswapd_run_all();
}

static __used int dynamos_before_off(void)
{
	return kswapd_stop_all();
}

static __used int dynamos_after_off(void)
{
	return kswapd_run_all();
}

"#;

/// The main loop tells of its 1st, 2nd, 4th, 8th … round, and the hooks stand behind the functions that they call.
fn reporting(text: &str) -> String {
    let (before, after) = text.split_once("\nstatic int kswapd(void *p)\n").unwrap();
    let after = after
        .replacen(
            "\tunsigned int alloc_order, reclaim_order;\n",
            "\tunsigned int alloc_order, reclaim_order;\n\tunsigned long rounds = 0;\n",
            1,
        )
        .replacen(
            "\t\tif (reclaim_order < alloc_order)\n\t\t\tgoto kswapd_try_sleep;\n",
            "\t\tif (is_power_of_2(++rounds))\n\
             \t\t\tpr_info(\"kswapd%d: round %lu, order %u\\n\", pgdat->node_id, rounds, alloc_order);\n\
             \t\tif (reclaim_order < alloc_order)\n\t\t\tgoto kswapd_try_sleep;\n",
            1,
        );
    let init = "static int __init kswapd_init(void)\n";
    let (middle, end) = after.split_once(init).unwrap();
    let hooks = HOOKS.trim_start();
    format!("{before}\nstatic int kswapd(void *p)\n{middle}{hooks}{init}{end}")
}

fn the_main_loop_of_kswapd_is_replaced(version: &str, release: &str, scope: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let patch = scratch.path().join("kswapd.patch");
    edit(version, "mm/vmscan.c", reporting, &patch);
    let update = scratch.path().join("kswapd");
    let plan = diff(&format!("deb:{version}"), patch.to_str().unwrap(), &update).unwrap();
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    let replaced: Vec<_> =
        plan.functions.iter().filter(|f| f.verdict == "changed").map(|f| &f.name).collect();
    assert_eq!(replaced, ["kswapd"]);
    assert_eq!((plan.hooks.len(), plan.escapes.as_slice()), (4, &[][..]));
    let outcome = machine(release, &[&update])
        .disk(1 << 30)
        .memory(384)
        .script(format!(
            r#"{SAYS}
            thread() {{ ps | awk '/\[kswapd0\]/ {{ print $1 }}' | result $1; }}
            # Fills the page cache, which is larger than memory then.
            pressure() {{ dd if=/dev/vda of=/dev/null bs=1M count=600 skip=$1 2>/dev/null; }}
            reclaimed() {{ awk '/^pgsteal_kswapd / {{ print $2 }}' /proc/vmstat | result $1; }}
            rounds() {{ dmesg | grep -c 'kswapd0: round' | result $1 || true; }}
            thread stock_thread
            pressure 0
            reclaimed stock_reclaimed
            rounds stock_rounds
            says load dynamos load /update/kswapd --scope {scope}
            thread thread
            rounds before_rounds
            reclaimed before_reclaimed
            pressure 400
            pressure 0
            reclaimed reclaimed
            rounds rounds
            says status dynamos status dynamos_vmscan
            says revert dynamos revert dynamos_vmscan
            thread reverted_thread
            rounds reverted_rounds_before
            reclaimed reverted_reclaimed_before
            pressure 400
            pressure 0
            reclaimed reverted_reclaimed
            rounds reverted_rounds
            says enable dynamos enable dynamos_vmscan
            thread enabled_thread
            pressure 400
            rounds enabled_rounds
            says again dynamos revert dynamos_vmscan
            says unload dynamos unload dynamos_vmscan
            rmmod dynamos
            thread gone_thread
            pressure 0
            reclaimed gone_reclaimed
            dmesg | grep -E 'dynamos:|kswapd0:' | result log"#
        ))
        .timeout(Duration::from_secs(600))
        .run()
        .unwrap();
    let results = &outcome.results;
    let log = &results["log"];
    let number = |name: &str| results[name].trim().parse::<u64>().unwrap();
    for name in ["load", "status", "revert", "enable", "again", "unload"] {
        assert!(results[name].starts_with("status 0"), "{name}: {}\n{log}", results[name]);
    }
    assert!(results["status"].contains("kswapd  edition 1"), "{}", results["status"]);
    // There is one thread in each edition, and each is another one.
    let threads = ["stock_thread", "thread", "reverted_thread", "enabled_thread", "gone_thread"];
    let all: std::collections::BTreeSet<u64> = threads.iter().map(|name| number(name)).collect();
    assert_eq!(all.len(), threads.len(), "{log}");
    // Only the new main loop tells of its rounds.
    assert_eq!((number("stock_rounds"), number("before_rounds")), (0, 0));
    assert!(number("rounds") > 0, "{log}");
    assert_eq!(number("reverted_rounds"), number("reverted_rounds_before"), "{log}");
    assert!(number("enabled_rounds") > number("reverted_rounds"), "{log}");
    // It reclaims in every edition.
    assert!(number("stock_reclaimed") > 0);
    assert!(number("reclaimed") > number("before_reclaimed"), "{log}");
    assert!(number("reverted_reclaimed") > number("reverted_reclaimed_before"), "{log}");
    assert!(number("gone_reclaimed") > number("reverted_reclaimed"), "{log}");
}

#[test]
fn the_main_loop_of_kswapd_is_replaced_on_6_1() {
    the_main_loop_of_kswapd_is_replaced("6.1.192-1", "6.1.0-55-amd64", "function");
}

/// The scope that looks for tasks in the function: the hooks have taken the only one out of it.
#[test]
fn the_main_loop_of_kswapd_is_replaced_at_one_instant_on_6_12() {
    the_main_loop_of_kswapd_is_replaced("6.12.107", "6.12.107+deb12-amd64", "system");
}
