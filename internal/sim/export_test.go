package sim

// SmallCaches lets simulators that are made until the end of a test keep almost nothing unpacked.
func SmallCaches(cleanup func(func())) {
	l, r, d := liveKept, rawKept, decodedKept
	liveKept, rawKept, decodedKept = 2, 2, 2
	cleanup(func() { liveKept, rawKept, decodedKept = l, r, d })
}
