from mmyolo_ext.cli.test_exported import main

if __name__ == '__main__':
    main()
