package estate

// The interface that collectors, judges and readers of files build on; see the methods for what each guarantees.
//
//	b := estate.NewBuilder()
//	err := b.Add(body)   // one ARM body; concurrent calls are safe; body is not kept
//	b.Hide(gap)          // what could not be read
//	e := b.Build()       // joined; *Estate is immutable and safe for concurrent use
//
//	e, err := estate.Read(r)   // the file format of DESIGN 6, streamed
//
//	e.VMs() []*VM   e.ScaleSets() []*ScaleSet   e.NSGs() []*NSG   e.Policies() []*JITPolicy   (each in order of ids)
//	e.VM(id) (*VM, bool)   e.NSG(id) (*NSG, bool)
//	e.Ways(vm *VM, proto netsec.Protocol, port uint16) []Way
//	e.Gaps() []Gap   e.Hidden(subscription, fullType string) (Gap, bool)
//	e.Owners(addr netip.Addr, nsgID string) []*VM   // machines with a private address behind a group
