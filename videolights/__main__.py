from videolights.cli import main
raise SystemExit(main())
